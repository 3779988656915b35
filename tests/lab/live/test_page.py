"""The page in a real browser over the GNU Radio loopback: one engine and one browser for all tests, in their order."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lab.live.server import QUEUED_MESSAGES, Client
from lab.live.watching import RunningLink
from lab.live.wire import decode_message, encode_message
from sdr.recordings.reading import read_recording

ROOT = Path(__file__).resolve().parents[3]
PANELS = ("images", "spectrum", "constellation", "channel", "strips", "frames", "status")
PROCESSES = ("sampler", "plain", "receiver", "transmitter")
START_S = 400.0
"""Generous: the machine may be busy, and only what is asked to be quick is timed."""

CHANGE_S = 90.0
TOLD_S = 3.0
PIXELS = """
const digests = {};
for (const id of ["waterfall", "before", "after"]) {
  const canvas = document.getElementById(id);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  digests[id] = [new Set(data).size, data.reduce((sum, value) => (31 * sum + value) | 0, 0)];
}
return digests;
"""
"""How many different values each canvas has, and a digest of them."""

KEY = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def engine(out):
    options = ["--fps", "8", "--redraw-s", "0.5", "--out", str(out), "--method", "hifi:steps=2", "--draws", "2"]
    with RunningLink(options, ROOT) as link:
        yield link


@pytest.fixture(scope="module")
def browser(engine):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "chromedriver"))
    driver.set_window_size(1280, 1000)
    driver.get(engine.address)
    until(lambda: updates(driver)["images"] > 2, START_S)
    yield driver
    driver.quit()


def until(condition, limit_s):
    """Return what a condition returns once that is true, and how long it took."""
    began = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() - began < limit_s, "it didn't happen in time"
        time.sleep(0.1)
    return value, time.monotonic() - began


def updates(browser):
    return browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('.panel')]"
        ".map((panel) => [panel.id.slice(6), Number(panel.dataset.updates ?? 0)]))"
    )


def newest(browser, strip, name):
    """Return the last values of a strip chart."""
    return browser.execute_script(
        f"return otaLive.strips.{strip}.values[otaLive.strips.{strip}.names.indexOf('{name}')]"
        ".filter((value) => value !== null).slice(-4)"
    )


def texts(browser, place):
    return browser.execute_script(f"return document.getElementById('{place}').textContent")


def test_every_panel_changes_and_no_canvas_is_constant(browser):
    def all_there():
        seen = updates(browser)
        return all(seen[panel] for panel in PANELS) and browser.execute_script("return otaLive.seen.progress")

    until(all_there, START_S)
    before, pixels = updates(browser), browser.execute_script(PIXELS)
    until(lambda: all(updates(browser)[panel] > before[panel] for panel in PANELS), CHANGE_S)

    def all_drawn_anew():
        after = browser.execute_script(PIXELS)
        return all(colours > 2 and digest != pixels[canvas][1] for canvas, (colours, digest) in after.items())

    until(all_drawn_anew, CHANGE_S)
    until(lambda: "hifi" in texts(browser, "sampled") and "spread" in texts(browser, "sampled"), CHANGE_S)
    assert "jscc" in texts(browser, "newest")
    assert browser.execute_script("return document.getElementById('link').textContent") == "connected"


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_off_at_the_side(browser, width):
    browser.set_window_size(width, 1000)
    until(lambda: browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), CHANGE_S)
    browser.set_window_size(1280, 1000)


def test_csnr_down_is_seen_in_all_that_depends_on_it(browser):
    until(lambda: len(newest(browser, "psnr", "plain")) == 4, CHANGE_S)

    def mean(strip, name="plain"):
        values = newest(browser, strip, name)
        return sum(values) / len(values)

    good = {name: mean(name) for name in ("psnr", "expected")} | {
        "csnr": mean("csnr", "csnr"),
        "evm": mean("evm", "evm"),
    }
    constellation = browser.execute_script(PIXELS)["after"]
    browser.execute_script("otaLive.send({set: 'csnr_db', value: 1})")

    def all_follow():
        worse = mean("csnr", "csnr") < good["csnr"] - 4 and mean("evm", "evm") > good["evm"] + 4
        return worse and mean("psnr") < good["psnr"] - 1 and mean("expected") < good["expected"] - 1

    try:
        until(all_follow, CHANGE_S)
        assert browser.execute_script("return document.querySelector('#control-csnr_db').value") == "1"
        assert browser.execute_script(PIXELS)["after"] != constellation
    finally:
        browser.execute_script("otaLive.send({set: 'csnr_db', value: 20})")
    until(lambda: min(newest(browser, "csnr", "csnr")) > 5, CHANGE_S)


def test_a_click_on_a_frame_shows_all_its_figures(browser):
    browser.execute_script("document.querySelector('#frames tr').click()")
    shown = texts(browser, "detail")
    for name in ("snr_db", "cfo_std_hz", "papr_db", "timing_residual_samples"):
        assert name in shown
    browser.execute_script("document.querySelector('#detail button').click()")


def test_keys_freeze_and_change_the_theme(browser):
    browser.execute_script(KEY, " ")
    assert texts(browser, "freeze") == "go on"
    browser.execute_script(KEY, " ")
    assert texts(browser, "freeze") == "freeze"
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_script(KEY, "t")
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != light


def test_records_decode(browser, out):
    browser.execute_script("document.getElementById('record').click()")
    until(lambda: texts(browser, "record") == "stop and save", CHANGE_S)
    until(lambda: browser.execute_script("return otaLive.status.receiver.numbers.recorded_s > 0.3"), CHANGE_S)
    browser.execute_script("document.getElementById('record').click()")
    browser.execute_script("document.getElementById('record-last').click()")
    until(lambda: len(list(out.glob("recording-*.sigmf-meta"))) == 2, CHANGE_S)
    for path in out.glob("recording-*.sigmf-meta"):
        assert read_recording(path).duration_s > 0.3
    browser.execute_script("document.getElementById('snapshot').click()")  # which is looked at further down


def test_strangers_are_refused(engine):
    foreign = {"origin": "http://evil.example"}
    for address, options in (
        (engine.socket, foreign),
        (engine.socket, {}),
        (engine.socket, {"origin": engine.origin, "additional_headers": {"Host": "evil.example"}}),
        (engine.socket[:-1], {"origin": engine.origin}),
        (engine.socket.partition("?")[0], {"origin": engine.origin}),
    ):
        with pytest.raises(InvalidStatus) as refused:
            connect(address, **options)
        assert refused.value.response.status_code == 403 or "Host" in str(options)
    for path in ("/", "/?token=guess", "/static/../server.py", "/static/%2e%2e/server.py"):
        with pytest.raises(urllib.error.HTTPError) as missing:
            urllib.request.urlopen(engine.origin + path)
        assert missing.value.code in (403, 404)
    with urllib.request.urlopen(engine.address) as page:
        assert page.headers["content-security-policy"].startswith("default-src 'self';")


def next_of(socket, kind):
    """Return the next message of a kind."""
    for _ in range(2000):
        message = socket.recv(timeout=CHANGE_S)
        header, _ = decode_message(message)
        if header["kind"] == kind:
            return header
    raise AssertionError(f"no message of kind {kind} came")


def test_a_watcher_controls_nothing_and_says_nothing_huge(browser, engine):
    with connect(engine.socket, origin=engine.origin) as socket:
        assert next_of(socket, "hello")["controls_link"] is False
        for command in ({"set": "mute", "value": True}, {"do": "take_control"}, {"set": "csnr_db", "value": "/etc"}):
            socket.send(json.dumps(command))
            assert next_of(socket, "refused")["text"]
        with pytest.raises(ConnectionClosed):
            socket.send("x" * 100_000)
            next_of(socket, "nothing")
    browser.execute_script("otaLive.send({set: 'method', value: '../../etc/passwd'})")
    # Not in the line of news, where the next event may have taken its place.
    until(lambda: "must be one of" in texts(browser, "events"), CHANGE_S)
    assert browser.execute_script("return otaLive.values().mute") is False


def test_a_hundred_reconnects_leave_nothing_behind_and_a_slow_watcher_costs_nobody(browser, engine):
    with contextlib.ExitStack() as stack:
        # One that reads nothing can't be told goodbye either.
        stack.enter_context(connect(engine.socket, origin=engine.origin, max_queue=1, close_timeout=1))
        for _ in range(100):
            with connect(engine.socket, origin=engine.origin, max_queue=None) as socket:
                assert decode_message(socket.recv(timeout=CHANGE_S))[0]["kind"] == "hello"
        lines = updates(browser)["spectrum"]
        until(lambda: updates(browser)["spectrum"] > lines + 20, CHANGE_S)
    until(lambda: browser.execute_script("return otaLive.status.server.numbers.pages") == 1, CHANGE_S)


def test_what_waits_for_a_slow_page_is_bounded():
    async def fill() -> tuple[int, int]:
        client = Client(None)  # type: ignore[arg-type]  # nothing is sent
        for _ in range(3 * QUEUED_MESSAGES):
            client.put(encode_message("line", {}))
        small, huge = client.dropped, Client(None)  # type: ignore[arg-type]
        for _ in range(10):
            huge.put(encode_message("images", {}, {"pixels": np.zeros(1020 << 10, np.uint8)}))
        for kept in (client, huge):
            kept.put(encode_message("refused", {"text": "no"}))  # is not missed for all that
        return small, client.dropped - small, huge.dropped

    assert asyncio.run(fill()) == (2 * QUEUED_MESSAGES, 0, 6)


def test_a_snapshot_decodes(out):
    until(lambda: list(out.glob("snapshot-*-run")), START_S)
    (run,) = out.glob("snapshot-*-run")
    described = json.loads((run / "run.json").read_text())
    assert described["images"] and (run / "report.html").is_file()
    assert described["config"]["method"] == "hifi"


def test_a_killed_process_is_told_and_back_and_the_transmitter_muted(browser):
    pids = {name: until(lambda name=name: process_id(browser, name), CHANGE_S)[0] for name in PROCESSES}
    assert max(kill(browser, name, pids[name]) for name in PROCESSES) < TOLD_S
    until(lambda: all(process_id(browser, name) != pids[name] for name in PROCESSES), CHANGE_S)


def process_id(browser, name):
    return browser.execute_script(f"return otaLive.status.{name}?.pid")


def kill(browser, name, pid):
    """Kill a process, see that it is told and the transmitter muted, and return after how long it was told."""
    browser.execute_script("otaLive.send({set: 'mute', value: false})")
    until(lambda: browser.execute_script("return otaLive.values().mute") is False, CHANGE_S)
    os.kill(pid, signal.SIGKILL)
    _, seconds = until(lambda: f"{name} died (killed by SIGKILL)" in texts(browser, "events"), CHANGE_S)
    until(lambda: browser.execute_script("return otaLive.values().mute"), CHANGE_S)
    return seconds


def test_muted_is_muted_and_the_link_goes_on_after_all_that(browser):
    sent = "return otaLive.status.transmitter.numbers.frames_sent"
    muted = "return otaLive.status.transmitter.numbers.muted"
    until(lambda: browser.execute_script(muted), CHANGE_S)
    before, lines = browser.execute_script(sent), updates(browser)["spectrum"]
    until(lambda: updates(browser)["spectrum"] > lines + 10, CHANGE_S)
    assert browser.execute_script(sent) == before
    browser.execute_script("document.getElementById('mute').click()")
    images = updates(browser)["images"]
    until(lambda: updates(browser)["images"] > images, CHANGE_S)


def test_the_console_is_clean_and_no_request_left_this_host(browser, engine):
    # That these tests read canvases back is the only thing that Chromium remarks on under "rendering".
    said = [entry for entry in browser.get_log("browser") if entry["source"] != "rendering"]
    assert [entry for entry in said if entry["level"] in ("SEVERE", "WARNING")] == []
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in requests if one["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith(engine.origin) for url in urls)


def test_an_engine_that_is_killed_leaves_a_page_that_says_so_and_no_process(browser, engine):
    pids = [browser.execute_script(f"return otaLive.status.{name}.pid") for name in PROCESSES]
    engine.process.kill()
    _, seconds = until(lambda: "connection lost" in texts(browser, "link"), CHANGE_S)
    assert seconds < TOLD_S
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), CHANGE_S)
