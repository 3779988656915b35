"""Settings of the whole suite."""

import os
import signal
from collections.abc import Iterator

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

from tests.pauses import PauseMeter

# `pytest --hypothesis-profile=long` for the tests that name no number of examples themselves, foremost the fuzzing.
settings.register_profile("long", max_examples=5000, deadline=None)

# No test may open a window, and none may depend on the user's own choice of interpreter.
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("OTA_FASHION_MNIST", None)
# A shell lets what it starts in the background ignore Ctrl-C, and so would all that tests start and end that way.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
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


PAUSE_S = 0.1
"""A test that failed while the machine paused for so long is run again, twice at most."""

_AGAIN = "run again"
_METER = PauseMeter()
_run_again: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test. Emulated radios keep real time and lose samples where the machine stands still, as real ones do."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for runs_left in (2, 1, 0):
        _METER.begin()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not runs_left or _METER.longest_s < PAUSE_S or not any(report.failed for report in reports):
            break
        item.user_properties.append((_AGAIN, f"the machine paused for {_METER.longest_s:.2f} s"))
        item.session._setupstate.teardown_exact(None)  # whatever else is set up may have suffered, too
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what was run again."""
    if report.when == "call":
        _run_again.extend(f"{report.nodeid}: {why}" for name, why in report.user_properties if name == _AGAIN)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was run again: nothing may go unnoticed."""
    if _run_again:
        terminalreporter.section("run again after a pause of the machine")
        for line in _run_again:
            terminalreporter.write_line(line)


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
