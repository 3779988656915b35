"""The differentiable forward model: from JSCC symbols and channel taps to the received grid, and what follows from it.

    y[f, s, k] = H_f[k] exp(i phase[f, s]) X[f, s, k] + n,     H_f[k] = sum_l h[f, l] exp(-2i pi k l / N)

with X the sent cells (scrambled, interleaved symbols, tracking carriers), n ~ CN(0, noise_var[f] noise_ratio[f, s, k]).
`mode="frequency"`
evaluates exactly that: right while the cyclic prefix covers the channel and nothing is clipped. `mode="time"` goes
through the samples (inverse FFT, prefix, clipping, linear convolution, FFT) and holds for taps longer than the prefix
too, the symbol sent before the data included. `mode="carrier"` has limiter and amplifier before a channel per carrier.

A antennas of a receiver have a row each in every tensor of F rows, those of a frame next to each other, and the cells
of images are those of the first: `receiver.measurement.antennas` makes one of them.

Grids are scaled to unit mean signal power per frame, so taps have E||h||^2 = 1 and 1 / noise_var is the frame's SNR.

Taps that move within a frame are sums of r functions of time, `motion`; then h (F, r L) holds the L taps of the first
function, of the second, and so on, everywhere where taps (F, L) stand otherwise (see `receiver.channel.motion`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from receiver.measurement.nuisance import NONE, Nuisance
from sdr.air.amplifier import amplified_power, bussgang
from sdr.errors import ConfigError
from sdr.layout import FrameLayout

Mode = Literal["frequency", "time", "carrier"]

#: Noise over a frame's from which a cell counts as not received. It is finite, so that no float32 is ever NaN.
LOST_RATIO = 1e8
#: Every cell of a frame is as noisy as the next.
_EVEN = torch.ones(1, 1, 1)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was received of B images in F frames. Tensors share one device; complex64 unless built in double.

    Attributes:
        y: complex (F, S, N) data symbols, FFT bin order, unit mean signal power per frame.
        noise_var: (F,) linear noise power per bin of `y` that most of a frame's cells have.
        cells: int64 (B, K) flat index into F * S * N of every symbol of every image.
        scramble: complex (B, K) unit-modulus factor of every symbol.
        layout: the frame layout.
        previous_symbol: complex (F, N) the known symbol sent right before the data (last pilot, else header).
        tracking_grid: complex (F, S, N) what the data symbols carry besides images (tracking carriers), else zero.
        image_ids: B ids from the headers.
        csnr_db: (B,) CSNR that the encoder was told, from the headers.
        image_shape: (C, H, W).
        codec_digest: digest of the codec that made the symbols.
        pilots: complex (F, P, N) received pilot symbols, scaled like `y`.
        scale: (F,) amplitude that the raw grids were divided by, sqrt of the mean signal power per carrier.
        incomplete: ids of images that lack a frame and were left out.
        noise_ratio: (F, S, N) noise power of every cell over `noise_var`; 1 where none is given.
        pilot_noise_ratio: (F, P, N) the same of the pilots.
        mode: "frequency", "time" or "carrier".
        pa_saturation, pa_smoothness: the transmitter's Rapp amplifier (magnitude, full scale 1; smoothness at least 1),
            0 for none; not for mode "frequency".
        motion: real (F, S, r) functions of time at the data symbols; None: taps stand still.
        antennas: A; with several, only what is said of all rows alike can be asked: cells have to be combined first.
    """

    y: Tensor
    noise_var: Tensor
    cells: Tensor
    scramble: Tensor
    layout: FrameLayout
    previous_symbol: Tensor
    tracking_grid: Tensor
    image_ids: tuple[str, ...]
    csnr_db: Tensor
    image_shape: tuple[int, int, int]
    codec_digest: str
    pilots: Tensor
    scale: Tensor
    incomplete: tuple[str, ...] = ()
    noise_ratio: Tensor = _EVEN
    pilot_noise_ratio: Tensor = _EVEN
    mode: Mode = "frequency"
    pa_saturation: float = 0.0
    pa_smoothness: float = 2.0
    motion: Tensor | None = None
    antennas: int = 1

    def __post_init__(self) -> None:
        frames, images = self.y.shape[0], self.cells.shape[0]
        grid = (frames, self.layout.data_symbols, self.layout.fft_size)
        for name, values in (("noise_ratio", self.y), ("pilot_noise_ratio", self.pilots)):
            if getattr(self, name) is _EVEN:
                object.__setattr__(self, name, _EVEN.to(self.noise_var).expand(values.shape))
        expected = {
            "y": grid,
            "tracking_grid": grid,
            "noise_ratio": grid,
            "noise_var": (frames,),
            "scale": (frames,),
            "previous_symbol": (frames, self.layout.fft_size),
            "scramble": tuple(self.cells.shape),
            "csnr_db": (images,),
            "pilots": (frames, self.layout.pilot_symbols, self.layout.fft_size),
            "pilot_noise_ratio": (frames, self.layout.pilot_symbols, self.layout.fft_size),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ConfigError(
                    f"Measurement.{name} has shape {found}; {frames} frames and {images} images need {shape}."
                )
        if self.motion is not None and self.motion.shape[:2] != grid[:2]:
            raise ConfigError(
                f"Measurement.motion has shape {tuple(self.motion.shape)}; functions of {grid[:2]} symbols are needed."
            )
        if len(self.image_ids) != images:
            raise ConfigError(f"Measurement has {len(self.image_ids)} image ids for {images} images; give one each.")
        if self.mode not in get_args(Mode):
            raise ConfigError(f"Unknown mode {self.mode!r}; choose one of {', '.join(get_args(Mode))}.")
        if self.antennas < 1 or frames % self.antennas:
            raise ConfigError(f"{frames} rows are no whole number of frames at {self.antennas} antennas.")
        if self.pa_saturation < 0 or self.pa_smoothness < 1 or (self.pa_saturation and self.mode == "frequency"):
            raise ConfigError(
                "An amplifier needs saturation >= 0, smoothness >= 1 and a mode other than frequency; found "
                f"{self.pa_saturation}, {self.pa_smoothness} and {self.mode!r}."
            )
        if images and (int(self.cells.min()) < 0 or int(self.cells.max()) >= self.y.numel()):
            raise ConfigError(f"Measurement.cells must lie in 0..{self.y.numel() - 1}.")
        if not bool((self.noise_var > 0).all()):
            raise ConfigError(f"noise_var must be positive, found {self.noise_var.tolist()}.")
        if not bool((self.noise_ratio > 0).all() and (self.pilot_noise_ratio > 0).all()):
            raise ConfigError("Ratios of noise powers must be positive.")

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
    def cells_at_antennas(self) -> Tensor:
        """(A, B, K) index into the flattened grid of every symbol's cell at every antenna."""
        block = self.layout.data_symbols * self.layout.fft_size
        return self.cells + block * torch.arange(self.antennas, device=self.cells.device)[:, None, None]

    @property
    def frame_of_image(self) -> Tensor:
        """(B,) frame of every image; the first one where an image spans several."""
        return self.frame_of_cell[:, 0]

    @property
    def cell_noise_ratio(self) -> Tensor:
        """(B, K) noise power that every symbol met over its frame's."""
        return self.noise_ratio.reshape(-1)[self.cells]

    @property
    def cell_noise_var(self) -> Tensor:
        """(B, K) noise power that every symbol met."""
        return self.noise_var[self.frame_of_cell] * self.cell_noise_ratio

    @property
    def arrived(self) -> Tensor:
        """(B, K) whether a symbol was received at all."""
        return self.cell_noise_ratio < LOST_RATIO

    @property
    def spans_frames(self) -> bool:
        """Whether some image lies in more than one frame (then `frame_of_image` tells only the first)."""
        frame = self.frame_of_cell
        return bool((frame != frame[:, :1]).any())

    # Other measurements from this one

    def with_received(self, y: Tensor) -> Measurement:
        """The same measurement with another received grid (F, S, N).

        Raises:
            ConfigError: another shape.
        """
        if y.shape != self.y.shape:
            raise ConfigError(f"A measurement of shape {tuple(self.y.shape)} can't receive {tuple(y.shape)}.")
        # Samplers do this at every step; to check all values again, a GPU would have to be waited for.
        other = copy.copy(self)
        object.__setattr__(other, "y", y)
        return other

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
        if self.antennas > 1:
            raise ConfigError(f"The cells of {self.antennas} antennas have to be combined before they are looked at.")
        grid = self.y if y is None else y
        return grid.reshape(-1)[self.cells] * self.scramble.conj()

    def sent_grid(self, z: Tensor) -> Tensor:
        """(F, S, N): symbols z (B, K) scrambled and put on their cells, with the tracking carriers."""
        empty = torch.zeros(self.y.numel(), dtype=z.dtype, device=z.device)
        filled = empty.index_put((self.cells.reshape(-1),), (z * self.scramble).reshape(-1))
        return self.at_all_antennas(filled.view(self.y.shape)) + self.tracking_grid

    def at_all_antennas(self, grid: Tensor) -> Tensor:
        """(F, S, N): what the first antenna's rows of a grid hold, in the rows of all antennas."""
        return grid if self.antennas == 1 else grid[:: self.antennas].repeat_interleave(self.antennas, dim=0)

    def response(self, h: Tensor) -> Tensor:
        """(..., N): response on every carrier, in FFT bin order, of taps h (..., L); L is at most N."""
        if h.shape[-1] > self.layout.fft_size:
            raise ConfigError(f"{h.shape[-1]} taps are more than the {self.layout.fft_size} carriers; use mode='time'.")
        return torch.fft.fft(h, n=self.layout.fft_size, dim=-1)

    def symbol_taps(self, h: Tensor) -> Tensor:
        """Return the taps (F, S, L) that each data symbol met, (F, 1, L) where they stand still, of h (F, r L)."""
        if self.motion is None:
            return h[:, None, :]
        functions = h.unflatten(-1, (self.motion.shape[-1], -1))
        return self.motion.to(h.dtype) @ functions

    def gains(self, h: Tensor, nuisance: Nuisance = NONE) -> Tensor:
        """Return the gain that every symbol met in the frequency domain, (B, K), of taps h (F, L) or (F, r L)."""
        return self._grid_gain(h, nuisance).expand(self.y.shape).reshape(-1)[self.cells]

    def _grid_gain(self, h: Tensor, nuisance: Nuisance) -> Tensor:
        gain = nuisance.turned_by_cfo(self.response(self.symbol_taps(h)), self.layout)
        return nuisance.turned(gain, self.layout)

    def forward(self, z: Tensor, h: Tensor, nuisance: Nuisance = NONE) -> Tensor:
        """Return the noise-free received grid (F, S, N), differentiable in all arguments.

        Args:
            z: (B, K) symbols.
            h: (F, L) taps.
            nuisance: what turns whole symbols. A carrier offset is exact through time only; in the frequency domain
                its leakage between carriers is left out.
        """
        sent = self.sent_grid(z)
        if self.mode == "frequency":
            return self._grid_gain(h, nuisance) * sent
        if self.mode == "carrier":
            return self._grid_gain(h, nuisance) * self.transmitted_grid(z)
        before = self.previous_symbol[:, None, :].to(sent.dtype)
        received = self._through_time(torch.cat([before, sent], dim=1), h, nuisance)
        return nuisance.turned(received, self.layout)

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
        """(F, S, N): `sent_grid` as it leaves the transmitter, limited and amplified but in mode "frequency".

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

    def _through_time(self, grid: Tensor, h: Tensor, nuisance: Nuisance) -> Tensor:
        """The data symbols (F, S, N) of grid (F, 1 + S, N) after prefix, clipping and linear convolution with h."""
        layout, taps = self.layout, self.symbol_taps(h)
        if taps.shape[-1] > layout.symbol_samples + 1:
            raise ConfigError(
                f"{taps.shape[-1]} taps reach past the one known symbol before the data; at most "
                f"{layout.symbol_samples + 1} are supported."
            )
        samples = torch.fft.ifft(grid, dim=-1, norm="ortho")
        prefix = samples[..., layout.fft_size - layout.cp_samples :]
        samples = torch.cat([prefix, samples], dim=-1).flatten(1)
        samples = self._amplified(samples)
        if self.motion is None:
            length = samples.shape[-1] + h.shape[-1] - 1
            spectrum = torch.fft.fft(samples, n=length) * torch.fft.fft(h, n=length)
            received = torch.fft.ifft(spectrum)[:, : samples.shape[-1]]
        else:
            received = self._convolved_by_symbol(samples, taps)
        received = nuisance.rotated_samples(received, layout)
        windows = received.view(grid.shape[0], grid.shape[1], layout.symbol_samples)[:, 1:, layout.cp_samples :]
        return torch.fft.fft(windows, dim=-1, norm="ortho")

    def _convolved_by_symbol(self, samples: Tensor, taps: Tensor) -> Tensor:
        """Convolve samples (F, n) of one known and all data symbols with taps (F, S, L) of each data symbol."""
        size = self.layout.symbol_samples
        symbols = samples.unflatten(1, (-1, size))
        pairs = torch.cat([symbols[:, :-1], symbols[:, 1:]], dim=-1)
        length = 2 * size + taps.shape[-1] - 1
        spectrum = torch.fft.fft(pairs, n=length) * torch.fft.fft(taps, n=length)
        within = torch.fft.ifft(spectrum)[..., size : 2 * size]
        return torch.cat([symbols[:, :1], within], dim=1).flatten(1)

    # What follows from it

    def predicted_cells(self, z: Tensor, h: Tensor, nuisance: Nuisance = NONE) -> Tensor:
        """Return the noise-free cells of every image as `received_cells` gives the received ones, (B, K)."""
        if self.mode == "frequency":
            return self.gains(h, nuisance) * z
        return self.received_cells(self.forward(z, h, nuisance))

    def squared_errors(self, z: Tensor, h: Tensor, nuisance: Nuisance = NONE) -> Tensor:
        """Return the squared distance between the received and the predicted cells, (B, K)."""
        difference = self.received_cells() - self.predicted_cells(z, h, nuisance)
        return difference.real.square() + difference.imag.square()

    def distance(self, z: Tensor, h: Tensor, nuisance: Nuisance = NONE) -> Tensor:
        """Return ||y - W_h(z)||^2 over the cells of every image, (B,), a noisier cell counting by so much less."""
        return (self.squared_errors(z, h, nuisance) / self.cell_noise_ratio).sum(dim=-1)

    def log_likelihood(self, z: Tensor, h: Tensor, nuisance: Nuisance = NONE) -> Tensor:
        """Return log p(y | z, h) in nats over the cells of every image, (B,), normalised."""
        noise = self.cell_noise_var
        return -(self.squared_errors(z, h, nuisance) / noise + torch.log(torch.pi * noise)).sum(dim=-1)

    def residual(self, z: Tensor, h: Tensor, nuisance: Nuisance = NONE) -> Tensor:
        """Return the squared distance over its expectation, (B,); about 1 for the right z and h.

        Symbols that did not arrive count in neither.
        """
        expected = (self.noise_var[self.frame_of_cell] * self.arrived).sum(dim=-1)
        return self.distance(z, h, nuisance) / expected
