"""The torch forward model against the NumPy modem and impairments, and what a sampler relies on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.measurement.collect import measure_frames
from receiver.measurement.equalise import equalise, unshrunk
from receiver.measurement.model import Measurement, Mode
from receiver.measurement.nuisance import Nuisance
from receiver.sync.frame import SyncedFrame
from sdr.air.amplifier import amplified_power, apply_rapp
from sdr.air.impairments import apply_multipath, draw_taps, exponential_pdp
from sdr.errors import ConfigError, InputError
from sdr.framing import FrameContent, pack_frames
from sdr.layout import FrameLayout, load_layout
from sdr.modem import demodulate, modulate
from sdr.symbols import Symbols

LAYOUTS: dict[str, FrameLayout] = {name: load_layout(name) for name in ("paper", "air", "blind")} | {
    "tracking": replace(load_layout("air"), tracking=(-75, -25, 25, 75)),
}


def random_images(count: int, num_symbols: int, seed: int = 0) -> Symbols:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((count, num_symbols)) + 1j * rng.standard_normal((count, num_symbols))
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    ids = tuple(f"img{i}" for i in range(count))
    return Symbols(z.astype(np.complex64), "00c0ffee", ids, (1, 32, 32), 10.0)


def received_frame(
    content: FrameContent, layout: FrameLayout, taps: NDArray[np.complex64], noise_var: float = 1e-3
) -> SyncedFrame:
    """The frame as a perfect synchroniser hands it over; the channel's output is scaled to unit symbol power."""
    samples = apply_multipath(modulate(content, layout), taps) / np.float32(layout.amplitude)
    grid = demodulate(samples, 0, layout, layout.num_symbols, 0)
    first = layout.first_pilot_symbol
    return SyncedFrame(
        grid=grid[first:],
        header=content.header,
        start=0,
        advance=0,
        cfo_hz=0.0,
        cfo_std_hz=0.0,
        metric=1.0,
        noise_var=noise_var,
        noise_var_std=0.0,
        signal_power=1.0,
        preamble_grid=grid[:2],
        header_grid=grid[2:first],
        known_taps=taps,
    )


def link(
    layout: FrameLayout, symbols: Symbols, num_taps: int = 4, mode: Mode = "frequency", seed: int = 1
) -> tuple[Measurement, Tensor, Tensor]:
    """A noise-free measurement, the symbols z (B, K) and taps h (F, L) behind it."""
    rng = np.random.default_rng(seed)
    contents = pack_frames(symbols, layout)
    taps = np.stack([draw_taps(exponential_pdp(num_taps, 4.0), rng) for _ in contents])
    frames = [received_frame(content, layout, h) for content, h in zip(contents, taps, strict=True)]
    measurement = measure_frames(frames, layout, mode=mode)
    return measurement, torch.from_numpy(np.array(symbols.z)), torch.from_numpy(taps)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().square().sum().sqrt() / expected.abs().square().sum().sqrt())


# Taps that move


@pytest.mark.parametrize("mode", ["frequency", "time"])
def test_every_symbol_meets_its_own_taps(mode: Mode) -> None:
    """The forward model of moving taps is, symbol by symbol, that of the taps it meets."""
    layout = replace(LAYOUTS["air"], data_symbols=4)
    measurement, z, h = link(layout, random_images(3, 800), mode=mode)
    motion = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(3))
    moving = replace(measurement, motion=motion)
    both = torch.cat([h, h.flip(-1) * 1j], dim=-1)
    taps = moving.symbol_taps(both)
    assert torch.allclose(taps, motion[..., :1] * h[:, None] + motion[..., 1:] * (h.flip(-1) * 1j)[:, None])
    for symbol in range(4):
        still = measurement.forward(z, taps[:, symbol])
        assert relative_error(moving.forward(z, both)[:, symbol], still[:, symbol]) < 1e-5
    assert torch.allclose(
        moving.gains(both) * z, moving.received_cells(replace(moving, mode="frequency").forward(z, both))
    )
    with pytest.raises(ConfigError, match="motion"):
        replace(measurement, motion=motion[:, :3])


# Against the NumPy reference


@pytest.mark.parametrize("mode", ["frequency", "time"])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_forward_equals_the_modem(name: str, mode: Mode) -> None:
    layout = LAYOUTS[name]
    if mode == "frequency":  # which knows no limiting: give the modem the headroom to need none
        layout = replace(layout, backoff_db=30.0)
    measurement, z, h = link(layout, random_images(5, 48), mode=mode)
    assert relative_error(measurement.forward(z, h), measurement.y) < 1e-4
    assert measurement.distance(z, h).max() < 1e-6 * 48
    assert measurement.residual(z, h).max() < 1e-3


@pytest.mark.parametrize("name", ["paper", "air", "blind"])
def test_time_mode_clips_like_the_modem(name: str) -> None:
    layout = replace(LAYOUTS[name], clip_ratio=1.0)
    measurement, z, h = link(layout, random_images(5, 48), mode="time")
    assert relative_error(measurement.forward(z, h), measurement.y) < 1e-4
    linear = replace(measurement, mode="frequency")
    assert relative_error(linear.forward(z, h), measurement.y) > 0.05


@pytest.mark.parametrize("cp_samples", [0, 3])
@pytest.mark.parametrize("name", ["paper", "blind", "air"])
def test_time_mode_has_the_interference_of_a_short_prefix(name: str, cp_samples: int) -> None:
    layout = replace(LAYOUTS[name], cp_samples=cp_samples, data_symbols=2)
    measurement, z, h = link(layout, random_images(4, 100), num_taps=12, mode="time")
    assert relative_error(measurement.forward(z, h), measurement.y) < 1e-4
    linear = replace(measurement, mode="frequency")
    assert relative_error(linear.forward(z, h), measurement.y) > 0.01


def test_modes_agree_where_both_hold() -> None:
    measurement, z, h = link(replace(LAYOUTS["air"], backoff_db=30.0), random_images(6, 60), num_taps=33)
    phase = torch.linspace(-1, 1, measurement.num_frames * 3).view(-1, 3)
    timed = replace(measurement, mode="time")
    assert relative_error(timed.forward(z, h, Nuisance(phase)), measurement.forward(z, h, Nuisance(phase))) < 1e-4
    assert torch.allclose(timed.distance(z, h, Nuisance(phase)), measurement.distance(z, h, Nuisance(phase)), rtol=1e-3)
    assert torch.allclose(timed.log_likelihood(z, h), measurement.log_likelihood(z, h), rtol=1e-3)


def test_phase_turns_each_symbol_of_each_frame() -> None:
    measurement, z, h = link(LAYOUTS["air"], random_images(16, 70))
    phase = torch.rand(measurement.num_frames, 3, generator=torch.Generator().manual_seed(0)) * 6
    turned = measurement.forward(z, h, Nuisance(phase))
    assert torch.allclose(turned, measurement.forward(z, h) * torch.exp(1j * phase)[:, :, None], atol=1e-5)
    assert measurement.with_received(turned).distance(z, h, Nuisance(phase)).max() < 1e-6


# Gradients and linearity


def small(mode: Mode, clip_ratio: float | None = None) -> tuple[Measurement, Tensor, Tensor]:
    layout = replace(
        LAYOUTS["paper"],
        fft_size=16,
        active=tuple(range(-8, 8)),
        cp_samples=3,
        header_symbols=80,
        data_symbols=2,
        clip_ratio=clip_ratio,
    )
    measurement, z, h = link(layout, random_images(4, 8), num_taps=5, mode=mode)
    return measurement.to(dtype=torch.float64), z.to(torch.complex128), h.to(torch.complex128)


@pytest.mark.parametrize(("mode", "clip_ratio"), [("frequency", None), ("time", None), ("time", 0.9)])
def test_gradients_are_those_of_finite_differences(mode: Mode, clip_ratio: float | None) -> None:
    measurement, z, h = small(mode, clip_ratio)
    generator = torch.Generator().manual_seed(1)
    phase = torch.rand(measurement.num_frames, 2, dtype=torch.float64, generator=generator)
    # Away from the measured point, where the distance would be zero and flat.
    z = z + 0.3 * torch.randn(z.shape, dtype=z.dtype, generator=generator)
    leaves = tuple(value.clone().requires_grad_() for value in (z, h, phase))
    for function in (measurement.forward, measurement.distance, measurement.log_likelihood):
        assert torch.autograd.gradcheck(lambda z, h, phase, of=function: of(z, h, Nuisance(phase)), leaves)
    if mode == "frequency":  # taps beyond the prefix are a search in time, which has no exact gradient
        assert torch.autograd.gradcheck(lambda taps: equalise(measurement, taps), leaves[1:2])


def test_clipping_has_a_finite_gradient_at_silence() -> None:
    measurement, z, h = small("time", 0.9)
    z = torch.zeros_like(z).requires_grad_()
    measurement.distance(z, h).sum().backward()
    assert z.grad is not None and bool(torch.isfinite(torch.view_as_real(z.grad)).all())


@pytest.mark.parametrize("name", sorted(LAYOUTS))
@pytest.mark.parametrize("mode", ["frequency", "time"])
def test_linear_part_and_its_adjoint(name: str, mode: Mode) -> None:
    """<A z, u> = <z, A^H u>, A^H from autograd, for the part of forward that depends on z (nothing is clipped)."""
    measurement, z, h = link(replace(LAYOUTS[name], backoff_db=40.0), random_images(3, 40), mode=mode)
    measurement, h = measurement.to(dtype=torch.float64), h.to(torch.complex128)
    generator = torch.Generator().manual_seed(4)
    v = torch.randn(z.shape, dtype=torch.complex128, generator=generator).requires_grad_()
    u = torch.randn(measurement.y.shape, dtype=torch.complex128, generator=generator)
    constant = measurement.forward(torch.zeros_like(v), h)
    image = measurement.forward(v, h) - constant
    (adjoint,) = torch.autograd.grad(image, v, grad_outputs=u)
    assert torch.allclose((image.conj() * u).sum(), (v.conj() * adjoint).sum(), rtol=1e-8)
    assert torch.allclose(measurement.forward(2j * v, h) - constant, 2j * image, atol=1e-8)


def test_sent_grid_and_received_cells_are_inverse() -> None:
    measurement, z, _ = link(LAYOUTS["tracking"], random_images(7, 70))
    assert torch.allclose(measurement.received_cells(measurement.sent_grid(z)), z, atol=1e-6)


def test_another_grid_is_received_in_its_own_copy_and_in_the_same_shape_alone() -> None:
    measurement, _, _ = link(LAYOUTS["paper"], random_images(8, 64))
    before = measurement.y.clone()
    other = measurement.with_received(2 * measurement.y)
    assert torch.equal(other.y, 2 * before) and torch.equal(measurement.y, before)
    with pytest.raises(ConfigError, match="can't receive"):
        measurement.with_received(measurement.y[:, :-1])


# Distances, likelihood, equaliser


def test_distances_keep_images_apart() -> None:
    measurement, z, h = link(LAYOUTS["paper"], random_images(8, 64))
    moved = z.clone()
    moved[3] += 0.5
    change = measurement.distance(moved, h) - measurement.distance(z, h)
    assert change[3] > 0.1
    assert change[[0, 1, 2, 4, 5, 6, 7]].abs().max() == 0
    gains = measurement.gains(h)
    assert torch.allclose(measurement.distance(moved, h)[3], (0.25 * gains[3].abs().square()).sum(), rtol=1e-3)


def test_log_likelihood_is_a_density() -> None:
    """Its mean over the noise is minus the entropy of K complex Gaussians, K log(pi e noise_var)."""
    measurement, z, h = link(LAYOUTS["air"], random_images(64, 75))
    generator = torch.Generator().manual_seed(0)
    noise_var = 0.37
    clean = measurement.forward(z, h)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator) * noise_var**0.5
    noisy = replace(measurement, y=clean + noise, noise_var=torch.full((measurement.num_frames,), noise_var))
    expected = -75 * np.log(np.pi * np.e * noise_var)
    assert float(noisy.log_likelihood(z, h).mean()) == pytest.approx(expected, abs=5 * (75 / 64) ** 0.5)
    assert float(noisy.residual(z, h).mean()) == pytest.approx(1.0, abs=5 / (75 * 64) ** 0.5)


def test_equalise_is_the_mmse_formula_per_cell() -> None:
    measurement, z, h = link(replace(LAYOUTS["paper"], backoff_db=30.0), random_images(8, 64))
    gains, y = measurement.gains(h), measurement.received_cells()
    noise = measurement.noise_var[measurement.frame_of_image][:, None]
    assert torch.allclose(equalise(measurement, h), gains.conj() * y / (gains.abs() ** 2 + noise))
    assert torch.allclose(unshrunk(measurement, h), equalise(measurement, h) * (1 + noise))
    assert torch.allclose(equalise(measurement, h, torch.full((2,), 1e-9)), z, atol=1e-3)


def test_repeat_makes_independent_copies() -> None:
    measurement, z, h = link(LAYOUTS["paper"], random_images(8, 64))
    wide = measurement.repeat(3)
    assert (wide.num_frames, wide.num_images) == (6, 24) and wide.image_ids[8:16] == measurement.image_ids
    taps = torch.cat([h, 2 * h, 0 * h])
    distance = wide.distance(z.repeat(3, 1), taps).view(3, 8)
    for copy, factor in enumerate((1, 2, 0)):
        assert torch.allclose(distance[copy], measurement.distance(z, factor * h), atol=1e-5)


# From frames


def test_side_information_follows_the_headers() -> None:
    symbols = random_images(6, 64)
    measurement, z, _ = link(LAYOUTS["paper"], symbols)
    assert measurement.image_ids == symbols.image_ids
    assert measurement.frame_of_image.tolist() == [0, 0, 0, 0, 1, 1]
    assert measurement.csnr_db.tolist() == [10.0] * 6
    assert measurement.image_shape == (1, 32, 32) and measurement.codec_digest == "00c0ffee"
    assert not measurement.spans_frames and measurement.num_symbols == z.shape[1]


def test_signal_power_is_normalised_out() -> None:
    layout = LAYOUTS["air"]
    frame = received_frame(pack_frames(random_images(1, 64), layout)[0], layout, np.ones(1, np.complex64))
    quiet = replace(frame, grid=frame.grid * np.float32(0.03), signal_power=9e-4, noise_var=9e-7)
    one, other = (measure_frames([f], layout) for f in (frame, quiet))
    assert torch.allclose(one.y, other.y, atol=1e-5) and torch.allclose(one.pilots, other.pilots, atol=1e-5)
    assert torch.allclose(one.noise_var, other.noise_var) and torch.allclose(other.scale, torch.tensor([0.03]))


@pytest.mark.parametrize("mode", ["frequency", "time"])
def test_images_span_frames(mode: Mode) -> None:
    measurement, z, h = link(replace(LAYOUTS["paper"], backoff_db=30.0), random_images(2, 600), mode=mode)
    assert (measurement.num_frames, measurement.num_images) == (6, 2) and measurement.spans_frames
    assert measurement.frame_of_image.tolist() == [0, 3]
    assert measurement.distance(z, h).max() < 1e-3
    assert torch.allclose(equalise(measurement, h, torch.full((6,), 1e-9)), z, atol=1e-2)


@pytest.mark.parametrize("lost", [0, 1, 2, 5])
def test_an_image_with_a_lost_frame_is_reported_and_left_out(lost: int) -> None:
    layout = LAYOUTS["paper"]
    contents = pack_frames(random_images(2, 600), layout)
    frames = [received_frame(content, layout, np.ones(1, np.complex64)) for content in contents]
    frames[lost] = replace(frames[lost], header=None)
    measurement = measure_frames(frames, layout)
    missing, kept = ("img0", "img1") if lost < 3 else ("img1", "img0")
    assert measurement.incomplete == (missing,) and measurement.image_ids == (kept,)


def test_repeated_transmissions_give_each_image_again() -> None:
    layout = LAYOUTS["paper"]
    contents = pack_frames(random_images(2, 300), layout) * 2
    frames = [received_frame(content, layout, np.ones(1, np.complex64)) for content in contents]
    assert measure_frames(frames, layout).image_ids == ("img0", "img1", "img0", "img1")
    # Cut in the middle of the first image, the recording holds img1, img0, img1 whole.
    cut = measure_frames(frames[1:], layout)
    assert cut.image_ids == ("img1", "img0", "img1") and cut.incomplete == ("img0",)


def test_what_cannot_be_decoded_says_so() -> None:
    layout = LAYOUTS["paper"]
    taps = np.ones(1, np.complex64)
    frame, *more = [received_frame(content, layout, taps) for content in pack_frames(random_images(1, 600), layout)]
    with pytest.raises(InputError, match="no readable header"):
        measure_frames([replace(frame, header=None)], layout)
    with pytest.raises(InputError, match="img0"):
        measure_frames(more, layout)
    other = received_frame(pack_frames(random_images(1, 64), layout)[0], layout, taps)
    with pytest.raises(InputError, match="kinds"):
        measure_frames([frame, *more, other], layout)
    with pytest.raises(InputError, match="layout"):
        measure_frames([other], LAYOUTS["blind"])


def test_measurement_checks_its_fields() -> None:
    measurement, _, h = link(LAYOUTS["paper"], random_images(4, 64))
    for change, message in (
        ({"noise_var": torch.zeros(1)}, "noise_var"),
        ({"image_ids": ("a",)}, "ids"),
        ({"cells": measurement.cells + 10_000}, "cells"),
        ({"y": measurement.y[:, :, :8]}, "Measurement.y"),
        ({"mode": "tim"}, "mode"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(measurement, **change)
    with pytest.raises(ConfigError, match="taps"):
        replace(measurement, mode="time").forward(torch.zeros(4, 64, dtype=torch.complex64), torch.ones(1, 300) + 0j)
    with pytest.raises(ConfigError, match="taps"):
        measurement.response(torch.ones(1, 257))
    assert measurement.response(h).shape == (1, 256)


# Nuisance parameters and the amplifier, against samples


@pytest.mark.parametrize("mode", ["frequency", "time"])
def test_a_carrier_offset_left_is_that_of_the_samples(mode: Mode) -> None:
    layout = replace(LAYOUTS["air"], backoff_db=30.0)
    measurement, z, h = link(layout, random_images(4, 75), mode=mode)
    content = pack_frames(random_images(4, 75), layout)[0]
    cfo_hz = 40.0
    samples = apply_multipath(modulate(content, layout), h[0].numpy()) / np.float32(layout.amplitude)
    centre = layout.first_data_symbol * layout.symbol_samples + layout.cp_samples + (layout.fft_size - 1) / 2
    turned = samples * np.exp(2j * np.pi * cfo_hz / layout.rate_sps * (np.arange(samples.size) - centre))
    grid = demodulate(
        turned.astype(np.complex64), 0, layout, layout.data_symbols, first_symbol=layout.first_data_symbol
    )
    found = measurement.forward(z, h, Nuisance(cfo_hz=torch.tensor([cfo_hz])))
    # Leakage between carriers is (pi 40 / 3906)^2 / 3, -35 dB, and only the time domain has it.
    active = layout.active_bins
    error = relative_error(found[0, :, active], torch.from_numpy(grid[:, active].copy()))
    assert error < (1e-3 if mode == "time" else 0.03)
    assert relative_error(measurement.forward(z, h)[0, :, active], torch.from_numpy(grid[:, active].copy())) > 0.05


@pytest.mark.parametrize("mode", ["frequency", "time"])
def test_timing_is_a_delay(mode: Mode) -> None:
    measurement, z, h = link(replace(LAYOUTS["air"], backoff_db=30.0), random_images(4, 75), mode=mode)
    late = torch.nn.functional.pad(h, (2, 0))
    timing = torch.full((1, 3), 2.0)
    assert relative_error(measurement.forward(z, h, Nuisance(timing=timing)), measurement.forward(z, late)) < 1e-4
    assert torch.allclose(measurement.distance(z, late), measurement.distance(z, h, Nuisance(timing=timing)), rtol=1e-3)


@pytest.mark.parametrize("amplifier", [0.0, 0.4])
def test_the_equaliser_takes_phase_timing_and_offset_out(amplifier: float) -> None:
    layout = replace(LAYOUTS["air"], backoff_db=14.0 if amplifier else 30.0)
    measurement, z, h = link(layout, random_images(4, 75), mode="time" if amplifier else "frequency")
    measurement = replace(measurement, pa_saturation=amplifier)
    generator = torch.Generator().manual_seed(1)
    phase, timing = (torch.randn(1, 3, generator=generator) * scale for scale in (0.5, 0.3))
    cfo_hz = torch.tensor([30.0])
    nuisance = Nuisance(phase, timing, cfo_hz)
    seen = measurement.with_received(measurement.forward(z, h, nuisance))
    quiet = torch.full((1,), 1e-6)
    assert relative_error(equalise(seen, h, quiet, nuisance), z) < 0.02
    assert relative_error(equalise(seen, h, quiet), z) > 0.2


def test_the_amplifier_is_that_of_the_samples() -> None:
    layout = LAYOUTS["paper"]
    symbols = random_images(4, 64)
    _, z, h = link(layout, symbols)
    content = pack_frames(symbols, layout)[0]
    samples = apply_rapp(modulate(content, layout), 0.25, 2.0)
    received = apply_multipath(samples, h[0].numpy()) / np.float32(layout.amplitude)
    grid = demodulate(received, 0, layout, 1, first_symbol=layout.first_data_symbol)
    measurement, _, _ = link(layout, symbols, mode="time")
    known = replace(measurement, pa_saturation=0.25, pa_smoothness=2.0)
    # Grids are scaled by the power that was received, so the model's taps carry what the amplifier took.
    grid = grid / np.float32(amplified_power(layout, 0.25, 2.0) ** 0.5)
    assert relative_error(known.forward(z, h)[0], torch.from_numpy(grid)) < 1e-3
    # Behind a channel shorter than the prefix the distorted grid is all there is to know.
    assert relative_error(known.response(h)[:, None] * known.transmitted_grid(z), known.forward(z, h)) < 1e-5
    assert known.transmitted_grid(z).abs().square().mean() == pytest.approx(1.0, abs=0.05)
    assert relative_error(measurement.forward(z, h)[0], torch.from_numpy(grid)) > 0.05
    for change in ({"mode": "frequency"}, {"pa_smoothness": 0.5}, {"pa_saturation": -1.0}):
        with pytest.raises(ConfigError, match="amplifier"):
            replace(known, **change)


@pytest.mark.parametrize("amplifier", [0.0, 0.3])
@pytest.mark.parametrize("mode", ["frequency", "time"])
def test_gradients_of_every_argument(mode: Mode, amplifier: float) -> None:
    measurement, z, h = small(mode, 1.2 if mode == "time" else None)
    if amplifier and mode == "time":
        measurement = replace(measurement, pa_saturation=amplifier)
    frames = measurement.num_frames
    nuisance = [torch.full(shape, 0.1, dtype=torch.float64) for shape in ((frames, 2), (frames, 2), (frames,))]
    leaves = [value.clone().requires_grad_() for value in (z, h, *nuisance)]
    assert torch.autograd.gradcheck(
        lambda z, h, *of: measurement.forward(z, h, Nuisance(*of)).abs().square().sum(), leaves, atol=1e-4
    )


# The equaliser through the whole model


@pytest.mark.parametrize("case", ["interference", "clipping", "amplifier"])
def test_the_true_operator_equalises_better_than_ignoring_it(case: str) -> None:
    changes = {"interference": {"cp_samples": 0}, "clipping": {"clip_ratio": 0.8}, "amplifier": {}}[case]
    layout = replace(LAYOUTS["paper"], **changes)
    symbols = random_images(8, 64)
    measurement, z, h = link(layout, symbols, num_taps=8, mode="time")
    if case == "amplifier":
        measurement = replace(measurement, pa_saturation=0.2)
        measurement = measurement.with_received(measurement.forward(z, h))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(measurement.y.shape, dtype=torch.complex64, generator=generator) * 0.03
    noisy = replace(measurement, y=measurement.y + noise, noise_var=torch.full((2,), 0.03**2))
    ignoring = replace(noisy, mode="frequency", pa_saturation=0.0)
    errors = [float((equalise(m, h) - z).abs().square().mean()) for m in (noisy, ignoring)]
    assert errors[0] < 0.7 * errors[1]


def test_the_search_is_not_needed_where_the_frequency_domain_is_exact() -> None:
    measurement, _, h = link(replace(LAYOUTS["paper"], backoff_db=30.0), random_images(8, 64), mode="time")
    assert torch.equal(equalise(measurement, h), equalise(replace(measurement, mode="frequency"), h))


def test_the_searching_equaliser_passes_gradients_on() -> None:
    measurement, _, h = link(replace(LAYOUTS["paper"], clip_ratio=1.0), random_images(4, 64), mode="time")
    y = measurement.y.clone().requires_grad_()
    equalise(measurement.with_received(y), h).abs().square().sum().backward()
    assert y.grad is not None and float(y.grad.abs().sum()) > 0
