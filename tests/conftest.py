"""Settings of the whole suite."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# `pytest --hypothesis-profile=long` for the tests that name no number of examples themselves, foremost the fuzzing.
settings.register_profile("long", max_examples=5000, deadline=None)

# No test may open a window, and none may depend on the user's own choice of interpreter.
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("OTA_FASHION_MNIST", None)
# Beside other workers (`pytest -n`) threads would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def time_limit_s() -> int:
    """How long a test with `time_limit` may take; modules and folders that need longer have a fixture of their own."""
    return 60


@pytest.fixture
def time_limit(time_limit_s: int) -> Iterator[None]:
    """Fail a test that takes too long: what waits for a device or a flowgraph must not stop the suite."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"the test took longer than {time_limit_s} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(time_limit_s)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything is installed, a skipped test is a failed one: nothing may go unnoticed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI", "") not in ("1", "true"):
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} tests were skipped; continuous integration runs all of them", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
