"""Frames by their prefix alone: found, in time, with their offset; and decoded blindly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.benchmarks import prefix_frames
from lab.evaluation.channel_truth import timing_error_samples
from lab.experiments.link import Reception
from receiver.bundles.bundle import load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.sync.prefix import find_frames_by_prefix
from sdr.errors import ConfigError, InputError, RecordingError
from sdr.header import FrameHeader
from sdr.layout import FrameLayout, load_layout
from sdr.recordings.recording import Recording


def sent(
    count: int, csnr_db: float, per_frame: int = 4, antennas: int = 1
) -> tuple[Reception, FrameLayout, list[FrameHeader]]:
    """Held-out images in frames without pilots over fading multipath, and the headers of these frames."""
    given = prefix_frames.sent(count, csnr_db, per_frame, antennas)
    return given.reception, given.layout, given.headers


def test_every_frame_is_found_within_the_prefix() -> None:
    transmission, layout, headers = sent(120, 10.0, per_frame=1)
    assert transmission.truth is not None
    frames = find_frames_by_prefix(transmission.recording, layout, headers)
    assert [frame.header for frame in frames] == headers
    late = np.array([timing_error_samples(frame, transmission.truth) for frame in frames])
    assert np.abs(late).max() <= 5 and np.mean(np.abs(late) <= 2) > 0.85
    offset = np.array([(frame.cfo_hz - 300) / frame.cfo_std_hz for frame in frames])
    assert 0.6 < offset.std() < 1.5 and abs(offset.mean()) < 0.5
    assert np.median([frame.noise_var for frame in frames]) == pytest.approx(0.1 * layout.amplitude**2, rel=0.1), (
        "the noise is that of the gaps"
    )


def test_two_antennas_find_frames_that_one_misses() -> None:
    """At 0 dB, each antenna over taps of its own; both take each other's place, and a gain of one does not matter."""
    transmission, layout, headers = sent(120, 0.0, per_frame=1, antennas=2)
    both = transmission.recording
    both = replace(both, others=(both.others[0] * np.float32(0.1),))
    frames = find_frames_by_prefix(both, layout, headers)
    alone = [find_frames_by_prefix(replace(both, samples=own, others=()), layout, headers) for own in both.antennas]
    assert len(frames) >= 116 and max(map(len, alone)) < 108
    late = np.array([frame.start + frame.advance - layout.gap_samples for frame in frames]) % layout.frame_samples
    late = np.where(late > layout.frame_samples / 2, late - layout.frame_samples, late)
    assert np.mean(np.abs(late) <= 3) > 0.9
    offset = np.array([(frame.cfo_hz - 300) / frame.cfo_std_hz for frame in frames])
    assert 0.7 < offset.std() < 1.3
    for frame in frames:
        (other,) = frame.others
        assert (other.start, other.cfo_hz, other.header) == (frame.start, frame.cfo_hz, frame.header)
        assert other.silence is not None and not np.array_equal(other.silence, frame.silence)
    ratio = np.median([frame.noise_var / frame.others[0].noise_var for frame in frames])
    assert ratio == pytest.approx(100, rel=0.05), "levels are each antenna's own"


def test_one_antenna_decides_alone_where_the_other_hears_nothing() -> None:
    transmission, layout, headers = sent(16, 12.0)
    alone = find_frames_by_prefix(transmission.recording, layout, headers)
    noise = np.random.default_rng(0).standard_normal(2 * transmission.recording.num_samples).astype(np.float32)
    deaf = 0.01 * noise.view(np.complex64)
    both = find_frames_by_prefix(replace(transmission.recording, others=(deaf,)), layout, headers)
    assert [frame.header for frame in both] == headers
    assert np.abs([a.start - b.start for a, b in zip(alone, both, strict=True)]).max() <= 2


def test_preamble_and_header_may_be_anything_and_a_lost_frame_is_noticed() -> None:
    transmission, layout, headers = sent(40, 10.0)
    samples = transmission.recording.samples.copy()
    clean = find_frames_by_prefix(transmission.recording, layout, headers)
    length = layout.symbol_samples
    rng = np.random.default_rng(1)
    for frame in clean:
        for symbol in range(layout.first_pilot_symbol):
            begin = frame.start + frame.advance + symbol * length
            noise = rng.standard_normal(2 * layout.fft_size).view(np.complex128)
            scale = np.sqrt(np.mean(np.abs(samples[begin : begin + length]) ** 2) / 2)
            samples[begin : begin + length] = scale * np.concatenate([noise[-layout.cp_samples :], noise])
    gone = clean[3].start
    samples[gone : gone + layout.frame_samples] = 0
    found = find_frames_by_prefix(replace(transmission.recording, samples=samples), layout, headers)
    assert [frame.header for frame in found] == headers[:3] + headers[4:]


def test_a_blind_method_decodes_them() -> None:
    transmission, layout, headers = sent(16, 12.0)
    settings = DecodeSettings(steps=3)
    result = decode_recording(transmission.recording, layout, load_bundle(), ["blind"], settings, headers=headers)
    assert [image.id for image in result.images] == [image_id for header in headers for image_id in header.image_ids]
    assert np.median([image.residual for image in result.images]) < 2
    assert all(frame.phase_rms_rad == 0 for frame in result.frames), "no phase was taken out"
    assert np.mean([image.accepted for image in result.images]) > 0.7


def test_what_can_not_be_is_refused() -> None:
    transmission, layout, headers = sent(8, 15.0)
    with pytest.raises(InputError, match="1 frames were sent"):
        find_frames_by_prefix(transmission.recording, layout, headers[:1])
    for change in ({"cp_samples": 0}, {"gap_samples": 0}):
        with pytest.raises(ConfigError, match="prefix"):
            find_frames_by_prefix(transmission.recording, replace(layout, **change), headers)
    with pytest.raises(RecordingError, match="samples per second"):
        find_frames_by_prefix(transmission.recording, replace(layout, rate_sps=2e6), headers)
    noise = torch.randn(30_000, dtype=torch.complex64, generator=torch.Generator().manual_seed(1)).numpy()
    assert find_frames_by_prefix(Recording(0.1 * noise), load_layout("blind"), headers) == []
    assert find_frames_by_prefix(Recording(noise[:100]), load_layout("blind"), headers) == []
