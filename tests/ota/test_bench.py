"""`ota bench`: keys, files, bounds. The samples here are small; the committed figures have large ones."""

import json
import subprocess
import sys

import pyarrow.parquet
import pytest

from lab.benchmarks import modem as benchmark_modem
from lab.benchmarks.bounds import cfo_bound_hz, lmmse_bound, timing_bound_samples
from lab.evaluation.statistics import wilson_interval
from sdr.air.impairments import exponential_pdp
from sdr.layout import load_layout

KEYS = {
    "rx_msps": float,
    "tx_msps": float,
    "gnuradio_rx_msps": (float, type(None)),
    "rx_ratio": (float, type(None)),
    "detection": list,
    "false_alarms": int,
    "noise_samples": int,
    "cfo_db_over_crlb": list,
    "ce_db_over_lmmse": list,
}


@pytest.fixture
def small(monkeypatch):
    """The quick benchmark on a tenth of its samples."""
    monkeypatch.setattr(
        benchmark_modem, "measure_false_alarms",
        lambda layout, samples, seed, progress, measure=benchmark_modem.measure_false_alarms: measure(
            layout, samples // 10, seed, progress
        ),
    )  # fmt: skip


def test_bench_modem_prints_the_promised_keys_and_writes_its_files(ota, tmp_path, small):
    outcome = ota("bench", "modem", "--quick", "--json", "--out", tmp_path / "modem")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert set(found) == set(KEYS)
    assert all(isinstance(found[key], kind) for key, kind in KEYS.items())
    assert {"channel", "snr_db", "n", "rate"} == set(found["detection"][0])
    assert {"snr_db", "db"} == set(found["cfo_db_over_crlb"][0])
    assert {"fft_size", "snr_db", "db"} == set(found["ce_db_over_lmmse"][0])
    rates = {(point["channel"], point["snr_db"]): point["rate"] for point in found["detection"]}
    assert rates["awgn", 3.0] >= 0.97 and rates["rayleigh8", 6.0] >= 0.97
    assert found["false_alarms"] == 0
    assert all(point["db"] < 2.0 for point in found["cfo_db_over_crlb"])
    assert all(abs(point["db"]) < 0.6 for point in found["ce_db_over_lmmse"])
    names = {path.name for path in (tmp_path / "modem").iterdir()}
    assert names >= {
        "modem.parquet",
        "modem.json",
        "detection.png",
        "cfo.png",
        "timing.png",
        "noise.png",
        "channel.png",
    }
    rows = pyarrow.parquet.read_table(tmp_path / "modem" / "modem.parquet").to_pylist()
    short, long = [row for row in rows if row["quantity"] == "peak_memory"]
    assert long["n"] == 4 * short["n"] and 60 < long["value"] < min(500, 1.1 * short["value"])
    written = json.loads((tmp_path / "modem" / "modem.json").read_text())
    assert written["detection"] == found["detection"]


def test_bench_does_not_write_over_results(ota, tmp_path):
    (tmp_path / "precious").write_text("x")
    outcome = ota("bench", "modem", "--quick", "--out", tmp_path)
    assert outcome.code == 2 and "precious" not in outcome.out and "already holds files" in outcome.err


def test_the_command_line_runs_linear_algebra_on_one_thread():
    """Idle threads of it would count as processor time. OpenBLAS starts them when NumPy is loaded."""
    script = "import ota.__main__, numpy, os; print(len(os.listdir('/proc/self/task')))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "1\n"


def test_bounds_are_those_of_the_textbook():
    paper = load_layout("paper")
    # 1 / (2 pi sqrt(2 SNR sum (t - mean t)^2)) of a solid block of n samples: sum = n^3 / 12.
    solid = paper.symbol_samples * 14
    expected = 1e6 / (2 * 3.14159265) / (2 * 10 * solid**3 / 12) ** 0.5
    assert cfo_bound_hz(paper, 10.0, 14) == pytest.approx(expected, rel=0.03)
    assert cfo_bound_hz(paper, 10.0, 2) > 10 * cfo_bound_hz(paper, 10.0, 14)
    assert timing_bound_samples(paper, 20.0) == pytest.approx(timing_bound_samples(paper, 0.0) / 10)
    pdp = exponential_pdp(8, 4.0)
    s = 0.1 / 256
    assert lmmse_bound(paper, 0.1, pdp) == pytest.approx(float((pdp * s / (pdp + s)).sum()), rel=1e-6)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_methods_of_ones_own_are_measured_beside_the_plain_decoder(ota, tmp_path):
    words = ("bench", "sampler", "--n", 4, "--method", "guided:steps=2,eta=0", "--method", "blind-jscc", "--json")
    outcome = ota(*words, "--out", tmp_path / "curve")
    assert outcome.code == 0, outcome.err
    points = outcome.json["curve"]
    assert [(point["method"], point["evaluations"], point["n"]) for point in points] == [
        ("jscc", 0, 4),
        ("guided:eta=0", 2, 4),
        ("blind-jscc", 0, 4),
    ]
    assert points[2]["realism_null"] is None and all(point["seconds_per_image"] > 0 for point in points)
    assert json.loads((tmp_path / "curve" / "sampler.json").read_text())["curve"] == points
    assert (tmp_path / "curve" / "curve.png").stat().st_size > 5000


def test_what_is_no_sampler_is_refused(refused, tmp_path):
    line = refused("bench", "sampler", "--method", "vvc-ldpc", "--out", tmp_path / "curve")
    assert "`ota bench separation`" in line and not list(tmp_path.iterdir())
