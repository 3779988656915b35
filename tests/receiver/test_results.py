"""Reports of frames: what is stored comes back."""

import math

from receiver.results import FrameReport
from sdr.files import json_ready

REPORT = FrameReport(
    start_sample=7,
    cfo_hz=300.5,
    snr_db=9.0,
    header_ok=True,
    frame_number=None,
    metric=0.9,
    noise_var=1e-3,
    cfo_std_hz=1.0,
    snr_std_db=0.1,
    noise_var_std=1e-5,
    sfo_ppm=1.5,
    sfo_std_ppm=0.5,
    corrected_sfo_ppm=1.0,
    evm_db=-9.0,
    papr_db=8.0,
    phase_rms_rad=0.0,
    phase_jitter_rad=0.01,
    phase_residual_rad=0.02,
    timing_residual_samples=math.nan,
)


def test_a_stored_report_comes_back_and_keeps_the_keys_of_older_run_folders() -> None:
    row = json_ready(REPORT.row())
    assert row["drift_ppm"] == 1.5 and row["drift_std_ppm"] == 0.5 and row["corrected_drift_ppm"] == 1.0
    assert not any("sfo" in key for key in row)
    assert repr(FrameReport.from_row({**row, "channel_mse": None})) == repr(REPORT)
