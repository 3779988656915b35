"""Receptions that are combined tell what they tell together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from receiver.measurement.collect import measure_payloads
from receiver.measurement.combine import Payloads, Received, add_receptions, combined_images
from receiver.measurement.equalise import equalise, unshrunk
from receiver.measurement.model import Measurement
from receiver.sync.preamble import find_frames
from sdr.air.impairments import apply_awgn, noise_var_for_csnr
from sdr.framing import FrameContent, pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from sdr.repeat_request import RepeatRequest, WantedSymbols, pack_answer
from sdr.symbols import Symbols

LAYOUT = load_layout("paper")
K, IMAGES = 64, 4


def symbols(seed: int = 0, count: int = IMAGES, size: int = K) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = (rng.standard_normal((count, size)) + 1j * rng.standard_normal((count, size))).astype(np.complex64)
    return z / np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))


Z = symbols()
SENT = Symbols(Z, "00c0ffee", tuple("abcd"), (1, 4, 4), 10.0)
TAPS = np.array([[0.8, 0.5 + 0.2j, 0, 0], [0.1, -0.9j, 0.3, 0]], np.complex64)


def heard(frames: list[FrameContent], taps: np.ndarray, seed: int, csnr_db: float = 5.0) -> Measurement:
    """Measure frames behind these taps; the frames found are in `FOUND`."""
    samples = np.convolve(modulate_stream(frames, LAYOUT, 500), taps).astype(np.complex64)
    noise_var = noise_var_for_csnr(LAYOUT, csnr_db)
    found = find_frames(Recording(apply_awgn(samples, noise_var, np.random.default_rng(seed))), LAYOUT)
    assert len(found) == len(frames)
    FOUND[seed] = found
    return measure_payloads(found, LAYOUT)


FOUND: dict[int, list] = {}


def true_taps(measurement: Measurement) -> Tensor:
    """Return taps (1, 8) that fit the payload best: of a test that knows it."""
    sent = measurement.sent_grid(torch.from_numpy(Z.reshape(1, -1)))
    steering = torch.fft.fft(torch.eye(8, LAYOUT.fft_size), dim=1).T.to(torch.complex64)
    rows = (sent[0, 0][:, None] * steering).to(torch.complex64)
    return torch.linalg.lstsq(rows, measurement.y[0, 0][:, None]).solution.T


@pytest.fixture(scope="module")
def receptions() -> list[tuple[Measurement, Tensor]]:
    frames = pack_frames(SENT, LAYOUT)
    found = [heard(frames, taps, seed) for seed, taps in enumerate(TAPS)]
    return [(measurement, true_taps(measurement)) for measurement in found]


def together(receptions: list[tuple[Measurement, Tensor]]) -> dict[str, Received]:
    parts = [Payloads.of(measurement, h) for measurement, h in receptions]
    whole = Payloads(*(torch.cat([getattr(part, name) for part in parts]) for name in ("matched", "weight", "taps")))
    frames = [frame for index in range(len(parts)) for frame in FOUND[index]]
    return add_receptions(frames, whole, {})


def test_the_likelihood_is_that_of_both_receptions(receptions: list[tuple[Measurement, Tensor]]) -> None:
    combined = combined_images(together(receptions), LAYOUT)
    one, two = (torch.from_numpy(symbols(seed)) for seed in (1, 2))

    def difference(measurement: Measurement, h: Tensor, shape: tuple[int, ...]) -> Tensor:
        values = [measurement.log_likelihood(z.reshape(shape), h) for z in (one, two)]
        return (values[0] - values[1]).sum()

    apart = sum(difference(measurement, h, (1, -1)) for measurement, h in receptions)
    assert difference(combined.measurement, combined.taps, (IMAGES, K)) == pytest.approx(float(apart), rel=1e-3)


def test_one_reception_is_equalised_as_before(receptions: list[tuple[Measurement, Tensor]]) -> None:
    measurement, h = receptions[0]
    combined = combined_images(together(receptions[:1]), LAYOUT)
    before = equalise(measurement, h).view(IMAGES, K)
    assert torch.allclose(equalise(combined.measurement, combined.taps), before, atol=1e-4)
    # The level is that of each image's own cells.
    scale = unshrunk(combined.measurement, combined.taps) / before
    assert torch.allclose(scale, (1 + combined.measurement.noise_var)[:, None].to(scale), rtol=1e-3)


def test_the_error_is_what_the_weights_say(receptions: list[tuple[Measurement, Tensor]]) -> None:
    for count in (1, 2):
        received = together(receptions[:count])
        error = torch.stack(
            [each.matched / each.weight - torch.from_numpy(z) for each, z in zip(received.values(), Z, strict=True)]
        )
        normalised = error.abs().square() * torch.stack([each.weight for each in received.values()])
        # The mean of 256 exponential variables.
        assert float(normalised.mean()) == pytest.approx(1.0, abs=4 / 16)
        assert {each.receptions for each in received.values()} == {float(count)}


def test_answers_add_to_the_symbols_that_they_name(receptions: list[tuple[Measurement, Tensor]]) -> None:
    mark = np.zeros(K, dtype=bool)
    mark[[3, 17, 40]] = True
    request = RepeatRequest((WantedSymbols.of("c", mark), WantedSymbols.of("a", ~mark)))
    z = np.concatenate([Z[2, mark], Z[0, ~mark]])
    measured = heard(pack_answer(request, z, LAYOUT, 10.0, 1), TAPS[:1, :1][0], 2)
    first, h = receptions[0]
    answer = Payloads.of(measured, torch.full((1, 8), 0j).index_fill(1, torch.tensor([FOUND[2][0].advance]), 1))
    parts = [Payloads.of(first, h), answer]
    whole = Payloads(*(torch.cat([getattr(part, name) for part in parts]) for name in ("matched", "weight", "taps")))
    frames = [*FOUND[0], *FOUND[2]]
    before, ignored = together(receptions[:1]), add_receptions(frames, whole, {})
    known = add_receptions(frames, whole, {request.digest: request})
    for image_id, asked in zip("abcd", (~mark, mark & False, mark, mark & False), strict=True):
        assert torch.equal(ignored[image_id].weight, before[image_id].weight)
        assert np.array_equal((known[image_id].weight > before[image_id].weight).numpy(), asked)
        assert known[image_id].receptions == pytest.approx(1 + asked.mean())


def test_what_never_arrived_counts_as_lost(receptions: list[tuple[Measurement, Tensor]]) -> None:
    received = together(receptions[:1])
    some = received["a"].weight.clone()
    some[:20] = 0
    received["a"] = replace(received["a"], weight=some)
    measurement = combined_images(received, LAYOUT).measurement
    assert measurement.arrived.sum(dim=1).tolist() == [K - 20, K, K, K]
    z = torch.from_numpy(Z)
    h = measurement.y.new_ones(IMAGES, 1)
    changed = z.clone()
    changed[0, :20] = -5
    assert torch.allclose(measurement.residual(z, h), measurement.residual(changed, h), rtol=1e-4)
    assert bool(unshrunk(measurement, h).isfinite().all())
