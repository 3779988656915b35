"""The methods by name: deterministic decoding, DiffCom, HiFi-DiffCom, Blind-DiffCom and the named baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from receiver.codecs import Codec
from receiver.measurement import Measurement
from receiver.priors import Denoiser
from receiver.samplers.blind import (
    ChannelPrior,
    alone,
    codebook_evidence,
    conditional_channel,
    decoder_csnr_db,
    spread_candidates,
    turbo,
)
from receiver.samplers.confidence import ErrorNet, predicted_squared_error, rehearsed_squared_error
from receiver.samplers.core import (
    Guidance,
    Posterior,
    Randomness,
    RowGenerators,
    adaptive_start,
    diffuse,
    from_image,
    reverse_diffusion,
    reverse_steps,
    standard_normal,
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
from receiver.samplers.mixture import SymbolMixture, mixture_channel, second_order_channels
from receiver.samplers.nuisance import NuisancePrior, Tracker
from sdr.errors import ConfigError, InputError


@dataclass(frozen=True)
class Channel:
    """What the receiver knows of the channel.

    Attributes:
        h: (F, L) complex taps estimated from pilots; None where there are none or they must not be used.
        prior: of the taps; all that a blind method is given.
    """

    prior: ChannelPrior
    h: Tensor | None = None


#: Sources of blind channel candidates, the most telling first.
STARTS = ("mixture", "codebook", "random")


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
        least_dsnr: least diffusion SNR, linear, of the adaptive start. At low channel SNRs eq. (21) drowns more of the
            decoded image in noise than its error calls for.
        jacobian: differentiate through the denoiser.
        start: where blind channels come from: "mixture" of symbols, "codebook" of images or "random" draws of the
            prior; what a bundle lacks, or an image that spans frames can't use, is replaced by the next of these.
        back_projections: steps that move the decoded image, before sampling starts from it, to one whose own decoding
            is the image decoded: two passes of the codec each and no gradient.
        candidates: channel starts of the blind initialisation.
        turbo_rounds: rounds of the blind initialisation where it does not go by the mixture.
        consistency_steps: largest number of codec-only gradient steps after sampling, taken for images whose residual
            is still above the noise level (it is not, up to about 15 dB).
        phase_std_rad, timing_std_samples, cfo_std_hz, noise_std: further unknowns, see
            :class:`~receiver.samplers.nuisance.NuisancePrior`.
    """

    steps: int = 100
    zeta: float = 0.7
    gamma: float = 0.0
    zeta_h: float = 0.1
    eta: float = 1.0
    adaptive: bool = True
    tau: float = 20.0
    least_dsnr: float = 0.0
    jacobian: bool = True
    start: str = "mixture"
    back_projections: int = 0
    candidates: int = 8
    turbo_rounds: int = 10
    consistency_steps: int = 40
    phase_std_rad: float = 0.0
    timing_std_samples: float = 0.0
    cfo_std_hz: float = 0.0
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "candidates", "turbo_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed.")
        for name in ("zeta", "gamma", "zeta_h", "tau", "least_dsnr", "consistency_steps", "back_projections"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; 0 or more is needed.")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; between 0 and 1 is needed.")
        if self.start not in STARTS:
            raise ConfigError(f"start is {self.start!r}; one of {', '.join(STARTS)} is needed.")
        _ = self.nuisance

    @property
    def nuisance(self) -> NuisancePrior:
        """What is unknown beside image and taps."""
        return NuisancePrior(self.phase_std_rad, self.timing_std_samples, self.cfo_std_hz, self.noise_std)


@dataclass(frozen=True)
class Problem:
    """One batch to decode: everything a method may use.

    Attributes:
        prior: None where there is none; then only methods that need none can be used.
        encoder_csnr_db: (B,) CSNR that the encoder was told (read from the header).
        generator: of what is drawn for an image. frame_generator: of what is drawn for a frame's channel.
        codebook: (n, C, H, W) images in [0, 1] for the blind initialisation, or None.
        mixture: of the codec's symbols, for the same, or None.
        tracker: of the further unknowns; its corrected measurement is `measurement`.
    """

    measurement: Measurement
    codec: Codec
    prior: Denoiser | None
    channel: Channel
    encoder_csnr_db: Tensor
    generator: Randomness
    frame_generator: Randomness
    settings: MethodSettings
    tracker: Tracker
    codebook: Tensor | None = None
    mixture: SymbolMixture | None = None
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


#: Rounds of decoding and correcting that settle phase, delay and noise before a method with known taps begins.
_SETTLING_ROUNDS = 5


def _settled(problem: Problem) -> Problem:
    """The problem without the phases and delays, and with the noise, that the decoder's own answer tells of."""
    tracker = problem.tracker
    for _ in range(_SETTLING_ROUNDS):
        with torch.no_grad():
            z = problem.codec.encode(_deterministic(problem).x, problem.encoder_csnr_db)
        tracker.update_turns(z, problem.h)
        tracker.update_noise(z, problem.h)
        problem = replace(problem, measurement=tracker.measurement)
    return problem


def _deterministic(problem: Problem) -> Posterior:
    z_hat = problem.measurement.decoder_input(problem.h)
    with torch.no_grad():
        x_d = problem.codec.decode(z_hat, problem.decoder_csnr_db).clamp(0, 1)
    return Posterior(x_d, problem.h, x_d.new_zeros(0, x_d.shape[0]))


def _from_noise(problem: Problem) -> tuple[Tensor, Tensor]:
    """x_T and its steps."""
    count = problem.measurement.num_images
    device = problem.encoder_csnr_db.device
    start = torch.full((count,), problem.denoiser.schedule.num_steps, device=device)
    shape = (count, *problem.denoiser.image_shape)
    return standard_normal(shape, problem.generator, device), reverse_steps(start, problem.settings.steps)


def _from_decoded(problem: Problem, x_d: Tensor) -> tuple[Tensor, Tensor]:
    """x_Ts and its steps, eq. (20) and (21); x_T where the settings say so."""
    if not problem.settings.adaptive:
        return _from_noise(problem)
    schedule = problem.denoiser.schedule
    ratio = problem.codec.num_symbols / x_d[0].numel()
    csnr = 10 ** (problem.decoder_csnr_db / 10)
    start = adaptive_start(schedule, csnr, ratio, problem.settings.tau, least_dsnr=problem.settings.least_dsnr)
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


def _back_projected(problem: Problem, h: Tensor, x_d: Tensor) -> Tensor:
    """x <- x + x_d - D(W_h^-1(W_h(E(x)))): what the decoder loses of x is put back, a fixed point is consistent."""
    measurement, x = problem.measurement, x_d
    with torch.no_grad():
        for _ in range(problem.settings.back_projections):
            z = problem.codec.encode(x, problem.encoder_csnr_db)
            clean = measurement.with_received(measurement.forward(z, h))
            x = (x + x_d - problem.codec.decode(clean.decoder_input(h), problem.decoder_csnr_db)).clamp(0, 1)
    return x


def _confirm(
    problem: Problem, h: Tensor, x_d: Tensor, prior: ChannelPrior | None = None, anchor: Tensor | None = None
) -> Posterior:
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
        anchor,
        problem.tracker if problem.settings.nuisance.turns else None,
    )
    x, trace = _run(problem, guidance, _from_decoded(problem, _back_projected(problem, h, x_d)))
    problem = replace(problem, measurement=guidance.measurement)
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


def _rankable(problem: Problem) -> Tensor:
    """(F,) frames whose candidates can be ranked: the evidence of a word needs the whole image in one frame."""
    images = torch.bincount(problem.measurement.frame_of_image, minlength=problem.measurement.num_frames)
    return alone(problem.measurement) & (images > 0)


def initial_channels(problem: Problem) -> Tensor:
    """Channel candidates (F, M, L) from where the settings say, else from the prior; see `MethodSettings.start`."""
    measurement, prior, count = problem.measurement, problem.channel.prior, problem.settings.candidates
    sources = {
        "mixture": None if problem.mixture is None else (lambda _, words=problem.mixture.mean_symbols: words),
        "codebook": None if problem.codebook is None else partial(_encoded, problem, problem.codebook),
        "random": None,
    }
    allowed = STARTS[STARTS.index(problem.settings.start) :]
    words = next((sources[name] for name in allowed if sources[name] is not None), None)
    ranked = _rankable(problem).tolist() if words is not None else [False] * measurement.num_frames
    drawn = [frame for frame, is_ranked in enumerate(ranked) if not is_ranked]
    candidates = torch.zeros(
        measurement.num_frames, count, prior.num_taps, dtype=torch.complex64, device=problem.encoder_csnr_db.device
    )
    if drawn:
        candidates[drawn] = _drawn_channels(problem, drawn, count)
    if words is not None and len(drawn) < len(ranked):
        images = torch.bincount(measurement.frame_of_image, minlength=measurement.num_frames)
        per_image = _ranked_channels(problem, words)
        for frame in (frame for frame, is_ranked in enumerate(ranked) if is_ranked):
            wanted = -(-2 * count // int(images[frame]))
            mine = per_image[measurement.frame_of_image == frame, :wanted].transpose(0, 1).flatten(0, 1)
            # Cyclically filled where a frame has too few.
            candidates[frame] = mine[torch.arange(count, device=mine.device) % mine.shape[0]]
    return candidates


def _drawn_channels(problem: Problem, frames: Sequence[int], count: int) -> Tensor:
    """(frames, count, L) draws of the prior."""
    source, prior = problem.frame_generator, problem.channel.prior
    if isinstance(source, RowGenerators):
        source = RowGenerators(tuple(source.rows[frame] for frame in frames))
    draws = standard_normal((len(frames), count, prior.num_taps, 2), source, problem.encoder_csnr_db.device)
    return torch.view_as_complex(draws) * (prior.power / 2).sqrt()


def _encoded(problem: Problem, images: Tensor, csnr_db: Tensor) -> Tensor:
    return torch.cat([problem.codec.encode(x, csnr_db.expand(len(x))) for x in images.split(256)])


#: Words of most evidence among which an image's candidates are spread.
_POOL = 32


@torch.no_grad()
def _ranked_channels(problem: Problem, words: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, M, L): for every image channels that explain it with a word, the best first.

    Args:
        words: gives symbols (n, K) that images may have, for a CSNR that the encoder was told.
    """
    measurement, prior, told = problem.measurement, problem.channel.prior, problem.encoder_csnr_db
    # No word is the image that was sent: half of the signal power counts as noise.
    loose = (measurement.noise_var + 0.5)[measurement.frame_of_image]
    wanted = min(2 * problem.settings.candidates, _POOL)
    picked = []
    for csnr_db in told.unique():
        mine = told == csnr_db
        some = replace(
            measurement,
            cells=measurement.cells[mine],
            scramble=measurement.scramble[mine],
            csnr_db=measurement.csnr_db[mine],
            image_ids=measurement.image_ids[: int(mine.sum())],
        )
        evidence, means = codebook_evidence(some, words(csnr_db), prior, loose[mine])
        best = evidence.topk(min(_POOL, evidence.shape[1]), dim=1)
        taps = means.gather(1, best.indices[..., None].expand(-1, -1, means.shape[-1]))
        picked.append(spread_candidates(best.values, taps, min(wanted, evidence.shape[1])))
    rows = torch.cat([torch.nonzero(told == csnr_db)[:, 0] for csnr_db in told.unique()])
    return torch.cat(picked)[rows.argsort()]


#: Where an image has many words: square roots that are tried and kept, and, to refine them and tell their signs, the
#: words of each frame that are looked at and the rounds.
_ROOTS, _KEPT_ROOTS, _WORDS_PER_FRAME, _REFINING_ROUNDS = 24, 3, 64, 16


def _blind_start(problem: Problem) -> tuple[Tensor, Tensor, bool]:
    """Taps (F, L) found without pilots, what the decoder makes of them (B, C, H, W), and whether the mixture told."""
    settings, prior, measurement = problem.settings, problem.channel.prior, problem.measurement
    words, mixture = problem.codec.words, problem.mixture if settings.start == "mixture" else None
    if mixture is not None and len(words.places) > 1:
        drawn = _drawn_channels(problem, range(measurement.num_frames), _ROOTS)
        best = second_order_channels(measurement, mixture, prior, drawn, words, kept=_KEPT_ROOTS)
        few = words.thinned(_WORDS_PER_FRAME * len(measurement.frame_of_cell[0].unique()))
        h = mixture_channel(measurement, mixture, prior, torch.cat([best, -best], dim=1), few, rounds=_REFINING_ROUNDS)
        return h, _deterministic(replace(problem, channel=Channel(prior, h))).x, True
    candidates = initial_channels(problem)
    if mixture is not None and bool(_rankable(problem).all()):
        h = mixture_channel(measurement, mixture, prior, candidates)
        return h, _deterministic(replace(problem, channel=Channel(prior, h))).x, True
    found = turbo(measurement, problem.codec, prior, candidates, problem.encoder_csnr_db, rounds=settings.turbo_rounds)
    return found.h, found.x, False


def _blind_deterministic(problem: Problem) -> Posterior:
    """The deterministic decoder with the channel that a search from candidates found."""
    h, x, _ = _blind_start(problem)
    return Posterior(x, h, x.new_zeros(0, x.shape[0]))


def _blind(problem: Problem) -> Posterior:
    """Blind-DiffCom with the closed-form channel: candidates, a search from them, then the posterior sampler.

    The search only initialises; the posterior sampler then moves image and channel together.
    """
    h, x, by_mixture = _blind_start(problem)
    return _confirm(problem, h, x, problem.channel.prior, anchor=h if by_mixture else None)


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
        problem.frame_generator,
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
        _hifi, MethodSettings(steps=20, zeta=0.3, gamma=0.3, eta=0.5, least_dsnr=6), False, "HiFi-DiffCom, Algorithm 2"
    ),
    "hifi-no-confirming": RegisteredMethod(
        _hifi,
        MethodSettings(steps=20, zeta=0.3, eta=0.5, least_dsnr=6),
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
        MethodSettings(steps=20, zeta=0.3, gamma=0.3, eta=0.5, least_dsnr=6, candidates=10),
        True,
        "Blind-DiffCom: channel by the symbols' statistics, then the posterior sampler",
    ),
    "blind-turbo": RegisteredMethod(
        _blind,
        MethodSettings(steps=20, zeta=0.3, gamma=0.3, eta=0.5, least_dsnr=6, start="codebook"),
        True,
        "Blind-DiffCom: evidence-ranked images, turbo rounds, posterior sampler",
    ),
    "blind-jscc": RegisteredMethod(
        _blind_deterministic,
        MethodSettings(steps=1, candidates=4, turbo_rounds=8),
        True,
        "deterministic JSCC decoder with the channel found as by blind",
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
    generator: torch.Generator | Sequence[torch.Generator],
    settings: MethodSettings | None = None,
    codebook: Tensor | None = None,
    mixture: SymbolMixture | None = None,
    error_net: ErrorNet | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    draws: int = 1,
) -> Posterior:
    """Decode a batch of images with a method of :data:`METHODS`.

    Args:
        denoiser: the prior; None for methods that need none.
        encoder_csnr_db: (B,) CSNR that the encoder was told.
        generator: of all noise; or one per frame: then what a frame draws does not depend on those decoded with it.
        settings: the method's defaults where None.
        codebook: (n, C, H, W) images in [0, 1] that initialise blind decoding. mixture: of symbols, likewise.
        error_net: tells the expected squared error; a rehearsal does where None.
        on_step: called with each step's index and x0_hat.
        draws: independent samples per image, all in one batch; a blind method draws its channel R times too.

    Raises:
        ConfigError: settings that no method can have, or images of other sizes in codec and prior.
        InputError: what was received holds values that are not finite.
    """
    if draws < 1:
        raise ConfigError(f"Found {draws} draws; at least 1 is needed.")
    if denoiser is not None and codec.image_shape != denoiser.image_shape:
        raise ConfigError(
            f"The codec has images of shape {codec.image_shape}, the prior of {denoiser.image_shape}; use models of "
            "one bundle."
        )
    spoiled = int((~measurement.received_cells().isfinite()).sum())
    if spoiled:
        raise InputError(f"{spoiled} of the received symbols are not finite. Check the recording.")
    chosen = METHODS[method]
    if chosen.blind:
        channel = replace(channel, h=None)
    if draws > 1:
        measurement = measurement.repeat(draws)
        encoder_csnr_db = encoder_csnr_db.repeat(draws)
        channel = replace(channel, h=None if channel.h is None else channel.h.repeat(draws, 1))
    of_images: Randomness
    of_frames: Randomness
    if isinstance(generator, torch.Generator):
        of_images = of_frames = generator
    else:
        of_frames = RowGenerators(tuple(generator) * draws)
        of_images = RowGenerators(tuple(of_frames.rows[frame] for frame in measurement.frame_of_image.tolist()))
    settings = settings or chosen.settings
    tracker = Tracker(measurement, settings.nuisance)
    problem = Problem(
        measurement,
        codec,
        denoiser,
        channel,
        encoder_csnr_db,
        of_images,
        of_frames,
        settings,
        tracker,
        codebook,
        mixture,
        on_step,
    )
    if settings.nuisance != NuisancePrior() and channel.h is not None:
        problem = _settled(problem)
    posterior = chosen.run(problem)
    with torch.no_grad():
        residual = tracker.measurement.residual(codec.encode(posterior.x, encoder_csnr_db), posterior.h)
    told = (encoder_csnr_db, decoder_csnr_db(tracker.measurement, tracker.measurement.noise_var))
    if error_net is not None:
        expected = predicted_squared_error(tracker.measurement, codec, error_net, posterior.x, posterior.h, *told)
    else:
        expected = rehearsed_squared_error(
            tracker.measurement, codec, posterior.x, posterior.h, residual, *told, of_frames
        )
    return replace(posterior, draws=draws, residual=residual, expected_squared_error=expected)
