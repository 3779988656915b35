"""Finding GNU Radio, and a life cycle in which everything goes wrong."""

import os
import signal
import stat
import sys
import textwrap

import pytest

import flowgraphs.supervisor
from flowgraphs.supervisor import Flowgraph, GnuRadio, Supervisor, find_gnuradio_python
from sdr.errors import FlowgraphError


@pytest.fixture
def play(tmp_path, monkeypatch):
    """A supervisor's child that runs the given lines in this interpreter instead of a flowgraph."""
    monkeypatch.setattr(flowgraphs.supervisor, "import_root", lambda _: str(tmp_path))
    monkeypatch.setattr(
        flowgraphs.supervisor, "find_gnuradio_python", lambda: GnuRadio(sys.executable, "3.10", "3.11", "1.24")
    )

    def write(name, lines):
        (tmp_path / f"{name}.py").write_text("import os, signal, sys, time\n" + textwrap.dedent(lines))
        return name

    return write


READY = "print('READY {}', flush=True)\n"


def test_gnuradio_is_found():
    found = find_gnuradio_python()
    assert found.version.startswith("3.")
    assert os.access(found.python, os.X_OK)


@pytest.fixture
def no_gnuradio_here(monkeypatch):
    monkeypatch.setattr(flowgraphs.supervisor.importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv("OTA_GNURADIO_PYTHON", raising=False)


def test_the_named_interpreter_comes_before_the_systems(monkeypatch, no_gnuradio_here, tmp_path):
    link = tmp_path / "python-with-gnuradio"
    link.symlink_to(find_gnuradio_python().python)
    monkeypatch.setenv("OTA_GNURADIO_PYTHON", str(link))
    assert find_gnuradio_python().python == str(link)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "without", "silent"])
def test_a_wrong_interpreter_is_named_with_its_remedy(kind, monkeypatch, no_gnuradio_here, tmp_path):
    path = tmp_path / "python"
    scripts = {
        "text": "this is no program",
        "without": f"#!{sys.executable} -S\nimport sys; sys.exit('No module named gnuradio')\n",
        "silent": "#!/bin/sh\nexit 3\n",
    }
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text(scripts[kind])
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("OTA_GNURADIO_PYTHON", str(path))
    with pytest.raises(FlowgraphError) as caught:
        find_gnuradio_python()
    message = str(caught.value)
    assert message.startswith(f"OTA_GNURADIO_PYTHON={path} has no usable GNU Radio")
    assert "apt-get install gnuradio" in message and "\n" not in message


def test_no_gnuradio_at_all_says_what_to_install(monkeypatch, no_gnuradio_here):
    monkeypatch.setattr(flowgraphs.supervisor, "probe_gnuradio", lambda _: "No module named 'gnuradio'")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(FlowgraphError, match=r"no GNU Radio found .*apt-get install gnuradio.*OTA_GNURADIO_PYTHON"):
        find_gnuradio_python()


def test_a_gnuradio_broken_by_numpy_says_why(monkeypatch, no_gnuradio_here, tmp_path):
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho 'ImportError: numpy.core.multiarray failed to import' >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("OTA_GNURADIO_PYTHON", str(path))
    with pytest.raises(FlowgraphError, match=r"numpy\.core.multiarray failed to import"):
        find_gnuradio_python()


def test_ready_line_is_found_between_other_lines(play):
    name = play("good", "print('hello', flush=True)\nprint('READY {\"sink\": 5}', flush=True)\ntime.sleep(60)")
    with Supervisor() as supervisor:
        assert supervisor.start(name, {}).ready == {"sink": 5}
        supervisor.stop()


def test_ready_line_is_found_behind_what_a_driver_left(play):
    """gr-iio prints a U for an underrun, without an end of the line."""
    name = play(
        "late", "print('U', end='')\nprint('READY {\"sink\": 5}\\nUULOST 2\\nU', end='', flush=True)\ntime.sleep(60)"
    )
    with Supervisor() as supervisor:
        flowgraph = supervisor.start(name, {})
        assert flowgraph.ready == {"sink": 5} and flowgraph.last_said("LOST") == 2
        supervisor.stop()


def test_death_before_ready_is_reported_with_last_words(play):
    name = play("early", "print('0x7f00: frame', file=sys.stderr)\nsys.exit('the antenna is missing')")
    with Supervisor() as supervisor, pytest.raises(FlowgraphError, match=r"'early' died .*status 1\): the antenna is"):
        supervisor.start(name, {})


def test_silence_before_ready_times_out_and_kills(play):
    name = play("mute", "time.sleep(60)")
    with Supervisor() as supervisor:
        with pytest.raises(FlowgraphError, match=r"'mute' was not ready within 0\.3 s"):
            supervisor.start(name, {}, timeout_s=0.3)
        (flowgraph,) = supervisor.flowgraphs
    assert not flowgraph.alive()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("os.abort()", "killed by SIGABRT"),
        ("sys.exit(7)", "exit status 7"),
        ("sys.exit(0)", "exit status 0"),
    ],
)
def test_death_in_the_middle_names_who_and_how(play, lines, expected):
    steady = play("steady", READY + "time.sleep(60)")
    doomed = play("doomed", READY + f"print('last words', file=sys.stderr, flush=True)\ntime.sleep(0.3)\n{lines}")
    with Supervisor() as supervisor:
        supervisor.start(steady, {}, endless=True)
        supervisor.start(doomed, {}, endless=True)
        with pytest.raises(FlowgraphError) as caught:
            supervisor.watch(lambda: False, timeout_s=30)
    message = str(caught.value)
    assert "'doomed'" in message and "steady" not in message
    assert expected in message and "last words" in message and "\n" not in message
    assert not any(flowgraph.alive() for flowgraph in supervisor.flowgraphs)


def test_no_progress_is_an_error(play):
    name = play("idle", READY + "time.sleep(60)")
    with Supervisor() as supervisor:
        supervisor.start(name, {})
        with pytest.raises(FlowgraphError, match=r"\(idle\) made no progress for 0.3 s"):
            supervisor.watch(lambda: False, timeout_s=0.3, progress=lambda: 5)


def test_progress_keeps_a_watch_going(play):
    name = play("busy", READY + "time.sleep(60)")
    calls = iter(range(1000))
    with Supervisor() as supervisor:
        supervisor.start(name, {})
        supervisor.watch(lambda: next(calls) > 20, timeout_s=0.2, progress=lambda: next(calls))


def test_what_ignores_sigterm_is_killed(play, tmp_path):
    name = play("stubborn", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(60)")
    flowgraph = Flowgraph(name, {}, tmp_path)
    flowgraph.wait_ready()
    assert flowgraph.stop(grace_s=0.3) == -signal.SIGKILL
    flowgraph.check()  # we stopped it: no failure


def test_an_exception_in_the_parent_stops_the_children(play):
    name = play("child", READY + "time.sleep(60)")
    supervisor = Supervisor()
    with pytest.raises(ZeroDivisionError), supervisor:
        supervisor.start(name, {})
        raise ZeroDivisionError
    assert not supervisor.flowgraphs[0].alive()


def test_an_interpreter_that_cant_start_is_an_error(tmp_path):
    with pytest.raises(FlowgraphError, match=r"can't be started .*No such file.*apt-get"):
        Flowgraph("flowgraphs.receive", {}, tmp_path, python="/nonexistent/python")


def test_site_packages_are_not_shown_to_the_other_interpreter(monkeypatch, tmp_path):
    site = tmp_path / "site-packages"
    for package in ("numpy", "sdr", "flowgraphs"):
        (site / package).mkdir(parents=True)
    monkeypatch.setattr(flowgraphs.supervisor, "__file__", str(site / "flowgraphs" / "supervisor.py"))
    workdir = tmp_path / "work"
    workdir.mkdir()
    roots = {flowgraphs.supervisor.import_root(workdir) for _ in range(2)}
    assert [sorted(os.listdir(root)) for root in roots] == [["flowgraphs", "sdr"]]
