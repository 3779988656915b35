"""The methods by name: deterministic decoding, DiffCom, HiFi-DiffCom, Blind-DiffCom and the named baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from receiver.codecs import Codec
from receiver.measurement import Measurement
from receiver.priors import Denoiser
from receiver.samplers.blind import (
    ChannelPrior,
    TurboResult,
    codebook_evidence,
    conditional_channel,
    decoder_csnr_db,
    spread_candidates,
    turbo,
)
from receiver.samplers.core import (
    Guidance,
    Posterior,
    adaptive_start,
    diffuse,
    from_image,
    reverse_diffusion,
    reverse_steps,
    to_image,
)
from receiver.samplers.guidance import (
    AlignedGuidance,
    ClosedFormChannelGuidance,
    ConfirmingGuidance,
    DiffusedChannelGuidance,
    MeasurementGuidance,
    PixelGuidance,
)
from sdr.errors import ConfigError


@dataclass(frozen=True)
class Channel:
    """What the receiver knows of the channel.

    Attributes:
        h: (F, L) complex taps estimated from pilots; None where there are none or they must not be used.
        prior: of the taps; all that a blind method is given.
    """

    prior: ChannelPrior
    h: Tensor | None = None


@dataclass(frozen=True)
class MethodSettings:
    """Settings of a sampler (the defaults of each method are in :data:`METHODS`).

    Attributes:
        steps: reverse steps, that is denoiser evaluations.
        zeta: measurement strength (on the norm); goes up as steps go down.
        gamma: confirming strength.
        zeta_h: channel strength of Algorithm 3.
        eta: noise of the reverse step, 0 (DDIM) to 1 (ancestral).
        adaptive: start from the diffused decoder output, eq. (20); False: from noise at step T.
        tau: constant of the adaptive start, eq. (21).
        jacobian: differentiate through the denoiser.
        candidates: channel starts of the blind initialisation.
        turbo_rounds: rounds of the blind initialisation.
        consistency_steps: largest number of codec-only gradient steps after sampling, taken for images whose residual
            is still above the noise level (it is not, up to about 15 dB).
    """

    steps: int = 100
    zeta: float = 0.7
    gamma: float = 0.0
    zeta_h: float = 0.1
    eta: float = 1.0
    adaptive: bool = True
    tau: float = 20.0
    jacobian: bool = True
    candidates: int = 8
    turbo_rounds: int = 10
    consistency_steps: int = 40

    def __post_init__(self) -> None:
        for name in ("steps", "candidates", "turbo_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed.")
        for name in ("zeta", "gamma", "zeta_h", "tau", "consistency_steps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; 0 or more is needed.")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; between 0 and 1 is needed.")


@dataclass(frozen=True)
class Problem:
    """One batch to decode: everything a method may use.

    Attributes:
        prior: None where there is none; then only methods that need none can be used.
        encoder_csnr_db: (B,) CSNR that the encoder was told (read from the header).
        codebook: (n, C, H, W) images in [0, 1] for the blind initialisation, or None.
    """

    measurement: Measurement
    codec: Codec
    prior: Denoiser | None
    channel: Channel
    encoder_csnr_db: Tensor
    generator: torch.Generator
    settings: MethodSettings
    codebook: Tensor | None = None
    on_step: Callable[[int, Tensor], None] | None = None

    @property
    def h(self) -> Tensor:
        if self.channel.h is None:
            raise ConfigError("This method needs a channel estimate and there is none: use a blind method.")
        return self.channel.h

    @property
    def denoiser(self) -> Denoiser:
        if self.prior is None:
            raise ConfigError("This method needs a prior and there is none: use jscc or blind-jscc.")
        return self.prior

    @property
    def decoder_csnr_db(self) -> Tensor:
        """The receiver's own estimate, (B,), up to what the codec was trained with."""
        return decoder_csnr_db(self.measurement, self.measurement.noise_var)


Method = Callable[[Problem], Posterior]


def _deterministic(problem: Problem) -> Posterior:
    z_hat = problem.measurement.equalise(problem.h)
    with torch.no_grad():
        x_d = problem.codec.decode(z_hat, problem.decoder_csnr_db).clamp(0, 1)
    return Posterior(x_d, problem.h, x_d.new_zeros(0, x_d.shape[0]))


def _from_noise(problem: Problem) -> tuple[Tensor, Tensor]:
    """x_T and its steps."""
    count = problem.measurement.num_images
    device = problem.encoder_csnr_db.device
    start = torch.full((count,), problem.denoiser.schedule.num_steps, device=device)
    shape = (count, *problem.denoiser.image_shape)
    return torch.randn(shape, generator=problem.generator, device=device), reverse_steps(start, problem.settings.steps)


def _from_decoded(problem: Problem, x_d: Tensor) -> tuple[Tensor, Tensor]:
    """x_Ts and its steps, eq. (20) and (21); x_T where the settings say so."""
    if not problem.settings.adaptive:
        return _from_noise(problem)
    schedule = problem.denoiser.schedule
    ratio = problem.codec.num_symbols / x_d[0].numel()
    start = adaptive_start(schedule, 10 ** (problem.decoder_csnr_db / 10), ratio, problem.settings.tau)
    x_t = diffuse(schedule, from_image(x_d), start, problem.generator)
    return x_t, reverse_steps(start, problem.settings.steps)


def _run(problem: Problem, guidance: Guidance, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, trace = reverse_diffusion(
        problem.denoiser,
        guidance,
        *start,
        generator=problem.generator,
        eta=problem.settings.eta,
        jacobian=problem.settings.jacobian,
        on_step=problem.on_step,
    )
    return to_image(x).clamp(0, 1), trace


#: Step of Adam in pixels at the start; the smallest tried that closed the gap at 30 dB within 40 steps.
_CONSISTENCY_RATE = 0.0075


def _down_to_noise(problem: Problem, x: Tensor, h: Tensor) -> Tensor:
    """Move images whose normalised residual exceeds 1 towards the measurement until it no longer does.

    The guidance's steps have a fixed length (a norm's gradient), too long to settle within a small noise. This is the
    discrepancy principle: an image stops at the noise level, so that noise is never fitted.
    """
    measurement, told = problem.measurement, problem.encoder_csnr_db
    x = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=_CONSISTENCY_RATE)
    total = problem.settings.consistency_steps
    for index in range(total):
        residual = measurement.residual(problem.codec.encode(x, told), h)
        done = (residual <= 1).view(-1, 1, 1, 1)
        if bool(done.all()):
            break
        (x.grad,) = torch.autograd.grad((residual - 1).clamp(min=0).sum(), x)
        optimiser.param_groups[0]["lr"] = _CONSISTENCY_RATE / 2 * (1 + math.cos(math.pi * index / total))
        before = x.detach().clone()
        optimiser.step()
        with torch.no_grad():
            x.copy_(torch.where(done, before, x))
    return x.detach().clamp(0, 1)


def _diffcom(problem: Problem) -> Posterior:
    """Algorithm 1."""
    guidance = MeasurementGuidance(
        problem.codec, problem.measurement, problem.h, problem.encoder_csnr_db, problem.settings.zeta
    )
    x, trace = _run(problem, guidance, _from_noise(problem))
    return Posterior(_down_to_noise(problem, x, problem.h), problem.h, trace)


def _pixel_aligned(problem: Problem) -> Posterior:
    """DiffCom whose distance also holds the image to the deterministic decoding (Table V, d)."""
    settings = problem.settings
    guidance = AlignedGuidance(
        MeasurementGuidance(problem.codec, problem.measurement, problem.h, problem.encoder_csnr_db, settings.zeta),
        PixelGuidance(_deterministic(problem).x, settings.gamma),
    )
    x, trace = _run(problem, guidance, _from_noise(problem))
    return Posterior(_down_to_noise(problem, x, problem.h), problem.h, trace)


def _confirm(problem: Problem, h: Tensor, x_d: Tensor, prior: ChannelPrior | None = None) -> Posterior:
    guidance = ConfirmingGuidance(
        problem.codec,
        problem.measurement,
        h,
        problem.encoder_csnr_db,
        problem.decoder_csnr_db,
        x_d,
        problem.settings.zeta,
        problem.settings.gamma,
        prior,
    )
    x, trace = _run(problem, guidance, _from_decoded(problem, x_d))
    if prior is not None:
        with torch.no_grad():
            z = problem.codec.encode(x, problem.encoder_csnr_db)
            h = conditional_channel(problem.measurement, z, prior).mean
    return Posterior(_down_to_noise(problem, x, h), h, trace)


def _hifi(problem: Problem) -> Posterior:
    """Algorithm 2."""
    return _confirm(problem, problem.h, _deterministic(problem).x)


def _post_processing(problem: Problem) -> Posterior:
    """Deterministic decoding refined by the prior in the pixel domain (Table V, "DeepJSCC + DPS")."""
    guidance = PixelGuidance(_deterministic(problem).x, problem.settings.gamma)
    x, trace = _run(problem, guidance, _from_noise(problem))
    return Posterior(x, problem.h, trace)


def initial_channels(problem: Problem) -> Tensor:
    """Channel candidates (F, M, L): from the evidence of a codebook of images, or drawn from the prior.

    An entry's evidence needs the whole image in one frame; images that span frames start from the prior.
    """
    measurement, prior = problem.measurement, problem.channel.prior
    count = problem.settings.candidates
    if problem.codebook is None or measurement.spans_frames:
        shape = (measurement.num_frames, count, prior.num_taps, 2)
        draws = torch.randn(shape, generator=problem.generator, device=problem.encoder_csnr_db.device)
        return torch.view_as_complex(draws) * (prior.power / 2).sqrt()
    with torch.no_grad():
        told = problem.encoder_csnr_db.mean().expand(problem.codebook.shape[0])
        codebook = torch.cat(
            [problem.codec.encode(x, c) for x, c in zip(problem.codebook.split(256), told.split(256), strict=True)]
        )
        # No entry is the image that was sent: half of the signal power counts as noise.
        loose = (measurement.noise_var + 0.5)[measurement.frame_of_image]
        evidence, means = codebook_evidence(measurement, codebook, prior, loose)
        per_image = max(1, -(-2 * count // _images_per_frame(measurement)))
        images = evidence.topk(min(32, evidence.shape[1]), dim=1)
        taps = means.gather(1, images.indices[..., None].expand(-1, -1, means.shape[-1]))
        picked = spread_candidates(images.values, taps, min(per_image, images.values.shape[1]))
        return _gather_frames(measurement, picked, count)


def _images_per_frame(measurement: Measurement) -> int:
    return int(torch.bincount(measurement.frame_of_image, minlength=measurement.num_frames).max())


def _gather_frames(measurement: Measurement, per_image: Tensor, count: int) -> Tensor:
    """Candidates of a frame's images joined: (B, M, L) -> (F, count, L), cyclically filled where there are fewer."""
    frames = []
    for frame in range(measurement.num_frames):
        mine = per_image[measurement.frame_of_image == frame].transpose(0, 1).flatten(0, 1)
        frames.append(mine[torch.arange(count, device=mine.device) % mine.shape[0]])
    return torch.stack(frames)


def _turbo(problem: Problem) -> TurboResult:
    return turbo(
        problem.measurement,
        problem.codec,
        problem.channel.prior,
        initial_channels(problem),
        problem.encoder_csnr_db,
        rounds=problem.settings.turbo_rounds,
    )


def _blind_deterministic(problem: Problem) -> Posterior:
    """The deterministic decoder with the channel of the turbo rounds."""
    found = _turbo(problem)
    return Posterior(found.x, found.h, found.x.new_zeros(0, found.x.shape[0]))


def _blind(problem: Problem) -> Posterior:
    """Blind-DiffCom with the closed-form channel: candidates, turbo rounds, then the posterior sampler.

    The candidates and the turbo rounds only initialise; the posterior sampler then moves image and channel together.
    """
    start = _turbo(problem)
    return _confirm(problem, start.h, start.x, problem.channel.prior)


def _blind_closed_form(problem: Problem) -> Posterior:
    """DiffCom from noise with h from its closed-form conditional at every step; no initialisation."""
    guidance = ClosedFormChannelGuidance(
        problem.codec, problem.measurement, problem.channel.prior, problem.encoder_csnr_db, problem.settings.zeta
    )
    x, trace = _run(problem, guidance, _from_noise(problem))
    return Posterior(x, guidance.h, trace)


def _algorithm_3(problem: Problem, printed: bool) -> Posterior:
    guidance = DiffusedChannelGuidance(
        problem.codec,
        problem.measurement,
        problem.channel.prior,
        problem.encoder_csnr_db,
        problem.settings.zeta,
        problem.settings.zeta_h,
        problem.denoiser.schedule.alpha_bar,
        problem.generator,
        printed,
    )
    x, trace = _run(problem, guidance, _from_noise(problem))
    return Posterior(x, guidance.h, trace)


@dataclass(frozen=True)
class RegisteredMethod:
    """Attributes: run, settings (defaults), blind (uses no pilot), summary, prior (needs one)."""

    run: Method
    settings: MethodSettings
    blind: bool
    summary: str
    prior: bool = True


METHODS: Mapping[str, RegisteredMethod] = {
    "jscc": RegisteredMethod(_deterministic, MethodSettings(steps=1), False, "deterministic JSCC decoder", prior=False),
    "diffcom": RegisteredMethod(_diffcom, MethodSettings(steps=100, zeta=0.7), False, "DiffCom, Algorithm 1"),
    "hifi": RegisteredMethod(
        _hifi, MethodSettings(steps=20, zeta=0.3, gamma=0.3, eta=0.5), False, "HiFi-DiffCom, Algorithm 2"
    ),
    "hifi-no-confirming": RegisteredMethod(
        _hifi,
        MethodSettings(steps=20, zeta=0.3, eta=0.5),
        False,
        "adaptive start without the confirming term (Table IV)",
    ),
    "hifi-from-noise": RegisteredMethod(
        _hifi,
        MethodSettings(steps=100, zeta=0.3, gamma=0.3, adaptive=False),
        False,
        "the confirming term without the adaptive start (Table IV)",
    ),
    "diffcom-pixel": RegisteredMethod(
        _pixel_aligned, MethodSettings(steps=100, zeta=0.7, gamma=0.7), False, "DiffCom with pixel alignment (Table V)"
    ),
    "blind": RegisteredMethod(
        _blind,
        MethodSettings(steps=20, zeta=0.3, gamma=0.3, eta=0.5),
        True,
        "Blind-DiffCom: evidence-ranked start, turbo rounds, posterior sampler",
    ),
    "blind-jscc": RegisteredMethod(
        _blind_deterministic,
        MethodSettings(steps=1, candidates=4, turbo_rounds=8),
        True,
        "deterministic JSCC decoder with the channel found blindly: evidence-ranked start, turbo rounds",
        prior=False,
    ),
    "blind-closed-form": RegisteredMethod(
        _blind_closed_form, MethodSettings(steps=100, zeta=0.7), True, "DiffCom with the closed-form channel"
    ),
    "blind-algorithm3": RegisteredMethod(
        lambda problem: _algorithm_3(problem, printed=False),
        MethodSettings(steps=1000, zeta=0.3, zeta_h=0.1),
        True,
        "Blind-DiffCom, Algorithm 3 with line 5 mended",
    ),
    "blind-algorithm3-printed": RegisteredMethod(
        lambda problem: _algorithm_3(problem, printed=True),
        MethodSettings(steps=1000, zeta=0.3, zeta_h=0.1),
        True,
        "Blind-DiffCom, Algorithm 3 as printed (diverges; a baseline)",
    ),
    "jscc-dps": RegisteredMethod(
        _post_processing, MethodSettings(steps=100, gamma=0.7), False, "JSCC refined by the prior in pixels"
    ),
}


def sample(
    method: str,
    measurement: Measurement,
    *,
    codec: Codec,
    denoiser: Denoiser | None,
    channel: Channel,
    encoder_csnr_db: Tensor,
    generator: torch.Generator,
    settings: MethodSettings | None = None,
    codebook: Tensor | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    draws: int = 1,
) -> Posterior:
    """Decode a batch of images with a method of :data:`METHODS`.

    Args:
        denoiser: the prior; None for methods that need none.
        encoder_csnr_db: (B,) CSNR that the encoder was told.
        settings: the method's defaults where None.
        codebook: (n, C, H, W) images in [0, 1] that initialise blind decoding.
        on_step: called with each step's index and x0_hat.
        draws: independent samples per image, all in one batch; a blind method draws its channel R times too.
    """
    if draws < 1:
        raise ConfigError(f"Found {draws} draws; at least 1 is needed.")
    chosen = METHODS[method]
    if chosen.blind:
        channel = replace(channel, h=None)
    if draws > 1:
        measurement = measurement.repeat(draws)
        encoder_csnr_db = encoder_csnr_db.repeat(draws)
        channel = replace(channel, h=None if channel.h is None else channel.h.repeat(draws, 1))
    posterior = chosen.run(
        Problem(
            measurement,
            codec,
            denoiser,
            channel,
            encoder_csnr_db,
            generator,
            settings or chosen.settings,
            codebook,
            on_step,
        )
    )
    return replace(posterior, draws=draws)
