"""What `ota bench live` says of a link."""

import json

import numpy as np
import pytest

from lab.evaluation.statistics import fitted_slope
from lab.live.watching import Seen
from ota.__main__ import main


def test_a_few_seconds_are_measured(tmp_path, capsys):
    words = ["bench", "live", "--minutes", "0.05", "--out", str(tmp_path / "bench"), "--json", "--"]
    assert main([*words, "--radio", "sim:", "--fps", "16", "--method", "hifi:steps=2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((tmp_path / "bench" / "live.json").read_text())
    assert 0 < answer["page_s"] < answer["picture_s"] and answer["watched_s"] >= 3
    assert answer["samples"] > 0 and answer["frames"] > 0 and answer["plain_images_per_s"] > 0
    assert answer["lines_per_s"] > 0 and answer["latency_median_s"] > 0 and answer["overflows"] == 0
    # Transmitter, receiver and two decoders with torch in each; this process alone has more than 50 MB.
    assert answer["memory"]["all"]["end_mb"] > 400 and answer["memory"]["receiver"]["end_mb"] > 50
    assert {"receiver.dropped_plain", "plain.dropped_messages"} <= set(answer["dropped"]) and answer["errors"] == []


def test_a_link_that_does_not_begin_is_told_in_one_line(tmp_path, capsys):
    words = ["bench", "live", "--out", str(tmp_path / "bench"), "--", "--radio", "zmq:rx=tcp://127.0.0.1:9"]
    assert main(words) == 2
    assert "--listen" in capsys.readouterr().err and not (tmp_path / "bench").exists()


def test_numbers_grow_from_the_first_status_to_the_last():
    seen = Seen()
    for when_s, images in ((1.0, 10), (2.0, 40), (3.0, 70)):
        seen.add({"kind": "status", "from": "plain", "numbers": {"images": images}}, when_s)
    assert seen.grown("plain", "images") == 60 and seen.rate("plain", "images") == 30.0
    assert seen.grown("nobody", "images") == 0 and seen.rate("nobody", "images") is None


def test_a_slope_has_its_standard_error():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 10, 400)
    slopes = np.array([fitted_slope(x, 3.0 * x + rng.normal(0, 2.0, x.size)) for _ in range(400)])
    assert slopes[:, 0].mean() == pytest.approx(3.0, abs=0.02)
    assert slopes[:, 1].mean() == pytest.approx(slopes[:, 0].std(), rel=0.15)
    assert fitted_slope(x[:2], x[:2]) == (None, None)
