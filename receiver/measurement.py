"""The differentiable forward model: from JSCC symbols and channel taps to the received grid, and what follows from it.

    y[f, s, k] = H_f[k] exp(i phase[f, s]) X[f, s, k] + n,     H_f[k] = sum_l h[f, l] exp(-2i pi k l / N)

with X the sent cells (scrambled, interleaved symbols, tracking carriers), n ~ CN(0, noise_var[f]). `mode="frequency"`
evaluates exactly that: right while the cyclic prefix covers the channel and nothing is clipped. `mode="time"` goes
through the samples (inverse FFT, prefix, clipping, linear convolution, FFT) and holds for taps longer than the prefix
too, the symbol sent before the data included.

Grids are scaled to unit mean signal power per frame, so taps have E||h||^2 = 1 and 1 / noise_var is the frame's SNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from sdr.air.amplifier import amplified_power, bussgang
from sdr.errors import ConfigError, InputError
from sdr.framing import data_grid, image_spans
from sdr.header import encode_header
from sdr.layout import FrameLayout

if TYPE_CHECKING:
    from receiver.sync import SyncedFrame


Mode = Literal["frequency", "time"]

MODEL_ERROR_VAR = 1e-4
"""Least noise variance of a measurement in units of its signal power: what is left of a recording without noise is the
model's own error (phase, timing, the codec), and a smaller variance would trust it where nothing deserves trust."""

MAP_ITERATIONS = 25
"""Steps that the equaliser takes through a forward model that can't be inverted per cell."""


AMPLIFIER_ITERATIONS = 8
"""The same through an amplifier. Its most likely symbols are weaker than the mean ones, as saturation hides how large
they were: run to the end, the search raises the squared error of the start by a fifth at 20 dB and a saturation of 0.75
rms. After 8 steps it is 5 % lower than the start's there, and 20 to 40 % at 30 dB."""


def _turn(phase: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(phase), phase)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was received of B images in F frames. Tensors share one device; complex64 unless built in double.

    Attributes:
        y: complex (F, S, N) data symbols, FFT bin order, unit mean signal power per frame.
        noise_var: (F,) linear noise power per bin of `y`.
        cells: int64 (B, K) flat index into F * S * N of every symbol of every image.
        scramble: complex (B, K) unit-modulus factor of every symbol.
        layout: the frame layout.
        before: complex (F, N) the known symbol sent right before the data (last pilot, else header, else preamble B).
        known: complex (F, S, N) what the data symbols carry besides images (tracking carriers), else zero.
        image_ids: B ids from the headers.
        csnr_db: (B,) CSNR that the encoder was told, from the headers.
        image_shape: (C, H, W).
        codec_digest: digest of the codec that made the symbols.
        pilots: complex (F, P, N) received pilot symbols, scaled like `y`.
        scale: (F,) amplitude that the raw grids were divided by, sqrt of the mean signal power per carrier.
        incomplete: ids of images that lack a frame and were left out.
        mode: "frequency" or "time".
        pa_saturation, pa_smoothness: the transmitter's Rapp amplifier (magnitude, full scale 1; smoothness at least 1),
            0 for none; needs mode "time".
    """

    y: Tensor
    noise_var: Tensor
    cells: Tensor
    scramble: Tensor
    layout: FrameLayout
    before: Tensor
    known: Tensor
    image_ids: tuple[str, ...]
    csnr_db: Tensor
    image_shape: tuple[int, int, int]
    codec_digest: str
    pilots: Tensor
    scale: Tensor
    incomplete: tuple[str, ...] = ()
    mode: Mode = "frequency"
    pa_saturation: float = 0.0
    pa_smoothness: float = 2.0

    def __post_init__(self) -> None:
        frames, images = self.y.shape[0], self.cells.shape[0]
        grid = (frames, self.layout.data_symbols, self.layout.fft_size)
        expected = {
            "y": grid,
            "known": grid,
            "noise_var": (frames,),
            "scale": (frames,),
            "before": (frames, self.layout.fft_size),
            "scramble": tuple(self.cells.shape),
            "csnr_db": (images,),
            "pilots": (frames, self.layout.pilot_symbols, self.layout.fft_size),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ConfigError(
                    f"Measurement.{name} has shape {found}; {frames} frames and {images} images need {shape}."
                )
        if len(self.image_ids) != images:
            raise ConfigError(f"Measurement has {len(self.image_ids)} image ids for {images} images; give one each.")
        if self.mode not in ("frequency", "time"):
            raise ConfigError(f"Unknown mode {self.mode!r}; choose frequency or time.")
        if self.pa_saturation < 0 or self.pa_smoothness < 1 or (self.pa_saturation and self.mode != "time"):
            raise ConfigError(
                f"An amplifier needs saturation >= 0, smoothness >= 1 and mode='time'; found {self.pa_saturation}, "
                f"{self.pa_smoothness} and {self.mode!r}."
            )
        if images and (int(self.cells.min()) < 0 or int(self.cells.max()) >= self.y.numel()):
            raise ConfigError(f"Measurement.cells must lie in 0..{self.y.numel() - 1}.")
        if not bool((self.noise_var > 0).all()):
            raise ConfigError(f"noise_var must be positive, found {self.noise_var.tolist()}.")

    # Sizes and indices

    @property
    def num_frames(self) -> int:
        return self.y.shape[0]

    @property
    def num_images(self) -> int:
        return self.cells.shape[0]

    @property
    def num_symbols(self) -> int:
        """K, symbols per image."""
        return self.cells.shape[1]

    @property
    def frame_of_cell(self) -> Tensor:
        """(B, K) frame of every symbol."""
        return self.cells // (self.layout.data_symbols * self.layout.fft_size)

    @property
    def frame_of_image(self) -> Tensor:
        """(B,) frame of every image; the first one where an image spans several."""
        return self.frame_of_cell[:, 0]

    @property
    def spans_frames(self) -> bool:
        """Whether some image lies in more than one frame (then `frame_of_image` tells only the first)."""
        frame = self.frame_of_cell
        return bool((frame != frame[:, :1]).any())

    # Building

    @classmethod
    def from_frames(
        cls, frames: Sequence[SyncedFrame], layout: FrameLayout, *, mode: Mode = "frequency"
    ) -> Measurement:
        """The measurement of all images in the frames whose header was read; frames without a header are left out.

        An image that spans frames is kept when all of them are there, in order, else its id goes to `incomplete`.

        Raises:
            InputError: no header was read, no image is complete, or the headers tell of different codecs or shapes.
        """
        read = [frame for frame in frames if frame.header is not None]
        headers = [frame.header for frame in read if frame.header is not None]
        if not headers:
            raise InputError(
                f"Found {len(frames)} frame(s) and no readable header; decoding needs one: check the layout, raise the "
                f"gain or the transmit power."
            )
        kinds = {(header.codec_digest, tuple(header.image_shape), header.symbols_per_image) for header in headers}
        if len(kinds) > 1:
            raise InputError(f"The frames carry images of {len(kinds)} kinds: {sorted(kinds)}; decode them one by one.")
        strangers = {header.layout_digest for header in headers} - {layout.digest}
        if strangers:
            raise InputError(f"Frames of layout {sorted(strangers)} and not {layout.digest}; pass that layout file.")

        block = layout.data_symbols * layout.fft_size
        num_symbols = headers[0].symbols_per_image
        cells: list[np.ndarray] = []
        scramble: list[np.ndarray] = []
        ids: list[str] = []
        csnr: list[float] = []
        incomplete: list[str] = []
        open_image: tuple[str, int, int, list[np.ndarray], list[np.ndarray]] | None = None
        for index, header in enumerate(headers):
            for span in image_spans(header):
                part = slice(span.payload_start, span.payload_start + span.num_symbols)
                where, factor = layout.cell_index[part] + index * block, layout.cell_scramble[part]
                expected = (span.image_id, span.symbol_start, header.frame_number)
                if open_image is not None and expected != open_image[:3]:
                    incomplete.append(open_image[0])
                    open_image = None
                if open_image is None:
                    if span.symbol_start != 0:
                        incomplete.append(span.image_id)
                        continue
                    open_image = (*expected, [], [])
                parts, factors = [*open_image[3], where], [*open_image[4], factor]
                open_image = (
                    span.image_id,
                    span.symbol_start + span.num_symbols,
                    header.frame_number + 1,
                    parts,
                    factors,
                )
                if open_image[1] == num_symbols:
                    cells.append(np.concatenate(parts))
                    scramble.append(np.concatenate(factors))
                    ids.append(span.image_id)
                    csnr.append(header.csnr_db)
                    open_image = None
        if open_image is not None:
            incomplete.append(open_image[0])
        incomplete = list(dict.fromkeys(incomplete))
        if not ids:
            raise InputError(f"No image is complete ({', '.join(incomplete)}): frames are missing; record for longer.")

        power = np.array([frame.signal_power for frame in read], dtype=np.float64)
        scale = np.sqrt(power)
        grids = np.stack([frame.grid for frame in read]) / scale[:, None, None]
        pilots, data = grids[:, : layout.pilot_symbols], grids[:, layout.pilot_symbols :]
        if layout.pilot_symbols:
            before = np.broadcast_to(layout.pilots[-1], (len(read), layout.fft_size))
        elif layout.header_symbols:
            before = np.stack([encode_header(header, layout)[-1] for header in headers])
        else:
            before = np.broadcast_to(layout.preamble_b, (len(read), layout.fft_size))
        known = np.broadcast_to(data_grid(np.zeros(layout.capacity, dtype=np.complex64), layout), data.shape)

        def complex_tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(values, dtype=np.complex64, order="C"))

        return cls(
            y=complex_tensor(data),
            noise_var=torch.tensor([frame.noise_var for frame in read], dtype=torch.float64)
            .div(torch.from_numpy(power))
            .to(torch.float32)
            .clamp(min=MODEL_ERROR_VAR),
            cells=torch.from_numpy(np.stack(cells).astype(np.int64)),
            scramble=complex_tensor(np.stack(scramble)),
            layout=layout,
            before=complex_tensor(before),
            known=complex_tensor(known),
            image_ids=tuple(ids),
            csnr_db=torch.tensor(csnr, dtype=torch.float32),
            image_shape=headers[0].image_shape,
            codec_digest=headers[0].codec_digest,
            pilots=complex_tensor(pilots),
            scale=torch.tensor(scale, dtype=torch.float32),
            incomplete=tuple(incomplete),
            mode=mode,
        )

    def with_received(self, y: Tensor) -> Measurement:
        """The same measurement with another received grid (F, S, N)."""
        return replace(self, y=y)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Measurement:
        """Moves every tensor to `device`, and to the precision of `dtype` (torch.float32 or torch.float64)."""
        moved = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device)
                if dtype is not None and value.is_floating_point():
                    moved[name] = moved[name].to(dtype)
                elif dtype is not None and value.is_complex():
                    moved[name] = moved[name].to(dtype.to_complex())
        return replace(self, **moved)

    def repeat(self, copies: int) -> Measurement:
        """`copies` independent copies, copy-major: frame f of copy c is c * F + f, image b is c * B + b."""
        shift = torch.arange(copies, device=self.cells.device).repeat_interleave(self.num_images) * self.y.numel()
        tiled = {
            name: value.repeat(copies, *([1] * (value.dim() - 1)))
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        tiled["cells"] = tiled["cells"] + shift[:, None]
        return replace(self, image_ids=self.image_ids * copies, **tiled)

    # The forward model

    def received_cells(self, y: Tensor | None = None) -> Tensor:
        """(B, K): the cells of every image taken out of `y` (F, S, N), the scrambler undone."""
        grid = self.y if y is None else y
        return grid.reshape(-1)[self.cells] * self.scramble.conj()

    def sent_grid(self, z: Tensor) -> Tensor:
        """(F, S, N): symbols z (B, K) scrambled and put on their cells, with the tracking carriers."""
        empty = torch.zeros(self.y.numel(), dtype=z.dtype, device=z.device)
        filled = empty.index_put((self.cells.reshape(-1),), (z * self.scramble).reshape(-1))
        return filled.view(self.y.shape) + self.known

    def response(self, h: Tensor) -> Tensor:
        """(..., N): response on every carrier, in FFT bin order, of taps h (..., L); L is at most N."""
        if h.shape[-1] > self.layout.fft_size:
            raise ConfigError(f"{h.shape[-1]} taps are more than the {self.layout.fft_size} carriers; use mode='time'.")
        return torch.fft.fft(h, n=self.layout.fft_size, dim=-1)

    def gains(
        self, h: Tensor, phase: Tensor | None = None, timing: Tensor | None = None, cfo_hz: Tensor | None = None
    ) -> Tensor:
        """(B, K): the gain that every symbol met in the frequency domain; arguments as for `forward`."""
        gain = self._grid_gain(h, phase, timing, cfo_hz)
        return gain.expand(self.y.shape).reshape(-1)[self.cells]

    def _grid_gain(
        self, h: Tensor, phase: Tensor | None, timing: Tensor | None = None, cfo_hz: Tensor | None = None
    ) -> Tensor:
        gain = self.response(h)[:, None, :]
        if cfo_hz is not None:
            # Phase at the centre of each symbol; the leakage between carriers is left out.
            spacing_s = self.layout.symbol_samples / self.layout.rate_sps
            symbols = torch.arange(self.layout.data_symbols, dtype=cfo_hz.dtype, device=cfo_hz.device)
            gain = gain * _turn(2 * torch.pi * spacing_s * cfo_hz[:, None] * symbols)[:, :, None]
        return self._turned(gain, phase, timing)

    def _turned(self, grid: Tensor, phase: Tensor | None, timing: Tensor | None) -> Tensor:
        """(F, S, N) grid with each symbol's phase and delay."""
        if phase is not None:
            grid = grid * _turn(phase)[:, :, None]
        if timing is not None:
            size = self.layout.fft_size
            carriers = torch.fft.fftfreq(size, 1.0 / size, dtype=timing.dtype, device=timing.device)
            grid = grid * _turn(-2 * torch.pi / size * timing[:, :, None] * carriers)
        return grid

    def forward(
        self,
        z: Tensor,
        h: Tensor,
        phase: Tensor | None = None,
        timing: Tensor | None = None,
        cfo_hz: Tensor | None = None,
    ) -> Tensor:
        """The noise-free received grid (F, S, N); differentiable in all arguments.

        Args:
            z: (B, K) symbols. h: (F, L) taps.
            phase: (F, S) radians. timing: (F, S) further delay of each symbol in samples, small against the prefix.
            cfo_hz: (F,) carrier offset left, phase 0 at the centre of the first data symbol. In the frequency domain
                it turns whole symbols; through time it is exact.
        """
        sent = self.sent_grid(z)
        if self.mode == "frequency":
            return self._grid_gain(h, phase, timing, cfo_hz) * sent
        received = self._through_time(torch.cat([self.before[:, None, :].to(sent.dtype), sent], dim=1), h, cfo_hz)
        return self._turned(received, phase, timing)

    def _amplified(self, samples: Tensor) -> Tensor:
        """Samples (..., n), in units where cells have power 1, behind the limiter and the amplifier.

        What an amplifier takes of the mean power is made up for, as grids are scaled by what was received.
        """
        layout = self.layout
        limit = layout.magnitude_limit / layout.amplitude
        # clamp before dividing: a sample of magnitude zero must have a finite gradient.
        samples = samples * (limit / samples.abs().clamp(min=limit))
        if self.pa_saturation:
            ratio = (samples.real.square() + samples.imag.square()) * (layout.amplitude / self.pa_saturation) ** 2
            gain = (1 + ratio**self.pa_smoothness) ** (-0.5 / self.pa_smoothness)
            samples = samples * gain / amplified_power(layout, self.pa_saturation, self.pa_smoothness) ** 0.5
        return samples

    def transmitted_grid(self, z: Tensor) -> Tensor:
        """(F, S, N): `sent_grid` as it leaves the transmitter, limited and amplified in mode "time".

        Both work on samples one by one, so a prefix stays a copy of its symbol's end: behind a channel shorter than the
        prefix the received grid is exactly this grid times the channel's response.
        """
        grid = self.sent_grid(z)
        if self.mode == "frequency":
            return grid
        return torch.fft.fft(self._amplified(torch.fft.ifft(grid, dim=-1, norm="ortho")), dim=-1, norm="ortho")

    @property
    def distortion(self) -> tuple[float, float]:
        """Gain of the sent cells behind limiter and amplifier, and power of what is added to them (Bussgang)."""
        layout = self.layout
        if self.mode == "frequency" or (layout.clip_ratio is None and not self.pa_saturation):
            return 1.0, 0.0
        kept, added = bussgang(layout.magnitude_limit / layout.rms, self.pa_saturation / layout.rms, self.pa_smoothness)
        power = amplified_power(layout, self.pa_saturation, self.pa_smoothness) if self.pa_saturation else 1.0
        return kept / power**0.5, added / power

    def _through_time(self, grid: Tensor, h: Tensor, cfo_hz: Tensor | None = None) -> Tensor:
        """The data symbols (F, S, N) of grid (F, 1 + S, N) after prefix, clipping and linear convolution with h."""
        layout = self.layout
        if h.shape[-1] > layout.symbol_samples + 1:
            raise ConfigError(
                f"{h.shape[-1]} taps reach past the one known symbol before the data; at most "
                f"{layout.symbol_samples + 1} are supported."
            )
        samples = torch.fft.ifft(grid, dim=-1, norm="ortho")
        prefix = samples[..., layout.fft_size - layout.cp_samples :]
        samples = torch.cat([prefix, samples], dim=-1).flatten(1)
        samples = self._amplified(samples)
        length = samples.shape[-1] + h.shape[-1] - 1
        spectrum = torch.fft.fft(samples, n=length) * torch.fft.fft(h, n=length)
        received = torch.fft.ifft(spectrum)[:, : samples.shape[-1]]
        if cfo_hz is not None:
            centre = layout.symbol_samples + layout.cp_samples + (layout.fft_size - 1) / 2
            times = torch.arange(received.shape[-1], dtype=cfo_hz.dtype, device=cfo_hz.device) - centre
            received = received * _turn(2 * torch.pi / layout.rate_sps * cfo_hz[:, None] * times)
        windows = received.view(grid.shape[0], grid.shape[1], layout.symbol_samples)[:, 1:, layout.cp_samples :]
        return torch.fft.fft(windows, dim=-1, norm="ortho")

    # What follows from it

    def distance(
        self,
        z: Tensor,
        h: Tensor,
        phase: Tensor | None = None,
        timing: Tensor | None = None,
        cfo_hz: Tensor | None = None,
    ) -> Tensor:
        """(B,): squared distance between the received and the predicted cells of every image."""
        if self.mode == "frequency":
            predicted = self.gains(h, phase, timing, cfo_hz) * z
        else:
            predicted = self.received_cells(self.forward(z, h, phase, timing, cfo_hz))
        difference = self.received_cells() - predicted
        return (difference.real.square() + difference.imag.square()).sum(dim=-1)

    def log_likelihood(
        self,
        z: Tensor,
        h: Tensor,
        phase: Tensor | None = None,
        timing: Tensor | None = None,
        cfo_hz: Tensor | None = None,
    ) -> Tensor:
        """(B,): log p(y | z, h) in nats over the cells of every image, CN(., noise_var), normalised."""
        noise = self.noise_var[self.frame_of_cell]
        if self.mode == "frequency":
            predicted = self.gains(h, phase, timing, cfo_hz) * z
        else:
            predicted = self.received_cells(self.forward(z, h, phase, timing, cfo_hz))
        difference = self.received_cells() - predicted
        squared = difference.real.square() + difference.imag.square()
        return -(squared / noise + torch.log(torch.pi * noise)).sum(dim=-1)

    def residual(
        self,
        z: Tensor,
        h: Tensor,
        phase: Tensor | None = None,
        timing: Tensor | None = None,
        cfo_hz: Tensor | None = None,
    ) -> Tensor:
        """(B,): squared distance over its expectation sum(noise_var); about 1 for the right z and h."""
        return self.distance(z, h, phase, timing, cfo_hz) / self.noise_var[self.frame_of_cell].sum(dim=-1)

    def equalise(
        self,
        h: Tensor,
        noise_var: Tensor | None = None,
        phase: Tensor | None = None,
        timing: Tensor | None = None,
        cfo_hz: Tensor | None = None,
    ) -> Tensor:
        """(B, K): estimate of the symbols, which are taken to be CN(0, 1); phase, timing and cfo_hz as for `forward`.

        MMSE per cell, conj(g) y / (|g|^2 + noise_var), where the frequency domain is exact. In mode "time" a limiter
        counts as Bussgang has it: a gain and uncorrelated distortion, which is the best linear estimate. With taps
        beyond the prefix or an amplifier it is the symbols of most posterior density under the whole forward model,
        found by L-BFGS from there (`MAP_ITERATIONS` steps; `AMPLIFIER_ITERATIONS` where there is an amplifier).

        noise_var (F,) overrides the measured one (an annealed receiver).
        """
        noise = self.noise_var if noise_var is None else noise_var
        nuisance = tuple(None if value is None else value.detach() for value in (phase, timing, cfo_hz))
        gain = self.gains(h, phase, timing, cfo_hz)
        squared = gain.real.square() + gain.imag.square()
        cell_noise = noise[self.frame_of_cell]
        kept, distortion = self.distortion
        if distortion:
            cell_noise = cell_noise + squared * distortion
            gain, squared = gain * kept, squared * kept**2
        linear = gain.conj() * self.received_cells() / (squared + cell_noise)
        exact = h.shape[-1] <= self.layout.cp_samples + 1 and not self.pa_saturation
        if self.mode == "frequency" or exact:
            return linear
        found = self._most_likely(linear.detach(), h.detach(), noise.detach(), nuisance)
        # A confirming sampler differentiates this; the search itself has the linear equaliser's gradient at best.
        return found + (linear - linear.detach())

    def decoder_input(self, h: Tensor, noise_var: Tensor | None = None) -> Tensor:
        """(B, K): `equalise`, scaled so that behind a flat channel of unit gain it is the symbols plus noise.

        That is what codecs are trained on; MMSE shrinks it by 1 + noise_var, to half at 0 dB. Weak carriers stay
        weaker than strong ones, which tells the decoder how far to trust them.
        """
        noise = self.noise_var if noise_var is None else noise_var
        return self.equalise(h, noise) * (1 + noise)[self.frame_of_cell]

    def _most_likely(self, start: Tensor, h: Tensor, noise: Tensor, nuisance: tuple[Tensor | None, ...]) -> Tensor:
        """(B, K): argmin over z of sum |y - forward(z)|^2 / noise + |z|^2, over the active carriers."""
        active = torch.from_numpy(np.array(self.layout.active_bins)).to(self.y.device)
        received = self.y.detach()[:, :, active]
        parts = torch.view_as_real(start.clone()).requires_grad_()
        iterations = AMPLIFIER_ITERATIONS if self.pa_saturation else MAP_ITERATIONS
        search = torch.optim.LBFGS([parts], max_iter=iterations, history_size=8, line_search_fn="strong_wolfe")

        def cost() -> Tensor:
            search.zero_grad()
            z = torch.view_as_complex(parts)
            error = received - self.forward(z, h, *nuisance)[:, :, active]
            misfit = ((error.real.square() + error.imag.square()) / noise[:, None, None]).sum()
            value = (misfit + parts.square().sum()) / parts.numel()
            (parts.grad,) = torch.autograd.grad(value, parts)
            return value

        with torch.enable_grad():
            search.step(cost)
        return torch.view_as_complex(parts.detach().contiguous())
