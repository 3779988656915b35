"""Settings of the samplers."""

from __future__ import annotations

from dataclasses import dataclass

from receiver.samplers.diffusion import StepRule
from receiver.samplers.nuisance import NuisancePrior
from sdr.errors import ConfigError

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
        clip: keep x0_hat in the range of images at every step, as the public code does.
        learned_variance: draw with the variance that the prior learned, as the public code does.
        label: class that the images are taken to be of, for a class-conditional prior; -1 for none.
        start: where blind channels come from: "mixture" of symbols, "codebook" of images or "random" draws of the
            prior; what a bundle lacks, or an image that spans frames can't use, is replaced by the next of these.
        back_projections: steps that move the decoded image, before sampling starts from it, to one whose own decoding
            is the image decoded: two passes of the codec each and no gradient.
        candidates: channel starts of the blind initialisation.
        turbo_rounds: rounds of the blind initialisation where it does not go by the mixture.
        consistency_steps: largest number of codec-only gradient steps after sampling, taken for images whose residual
            is still above the noise level (it is not, up to about 15 dB).
        first_level: diffusion step of 1000 to which the decoded image is diffused before back projection, guidance by
            the pseudo-inverse, decoupled annealing or moment projection begins; None: what fits image and method.
        fit: how far back projection follows noise-free received symbols (1) and not the decoded image's own (0).
        rate: factor on the step of the pseudo-inverse; above 1 noise is fitted, and more detail appears.
        iterations: conjugate gradient steps of one linear solution.
        average: samples whose mean is the answer: the more, the less its squared error and its detail.
        pixel_var: variance of the images' pixels (scale [-1, 1]) that decoupled annealing takes for the prior's.
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
    clip: bool = False
    learned_variance: bool = False
    label: int = -1
    start: str = "mixture"
    back_projections: int = 0
    candidates: int = 8
    turbo_rounds: int = 10
    consistency_steps: int = 40
    first_level: int | None = None
    fit: float = 0.5
    rate: float = 1.0
    iterations: int = 1
    average: int = 1
    pixel_var: float = 1.0
    phase_std_rad: float = 0.0
    timing_std_samples: float = 0.0
    cfo_std_hz: float = 0.0
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "candidates", "turbo_rounds", "iterations", "average"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 1 is needed.")
        for name in ("zeta", "gamma", "zeta_h", "tau", "least_dsnr", "consistency_steps", "back_projections"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; 0 or more is needed.")
        for name in ("rate", "pixel_var"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; a number above 0 is needed.")
        if self.first_level is not None and not 1 <= self.first_level <= 1000:
            raise ConfigError(f"first_level is {self.first_level}; 1 to 1000 is needed.")
        if not 0 <= self.fit <= 1:
            raise ConfigError(f"fit is {self.fit}; between 0 and 1 is needed.")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; between 0 and 1 is needed.")
        if self.label < -1:
            raise ConfigError(f"label is {self.label}; a class from 0 on is needed, or -1 for none.")
        if self.start not in STARTS:
            raise ConfigError(f"start is {self.start!r}; one of {', '.join(STARTS)} is needed.")
        _ = self.nuisance

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations of an answer."""
        return self.steps * self.average

    @property
    def rule(self) -> StepRule:
        """How reverse steps are taken."""
        return StepRule(self.eta, self.jacobian, self.clip, self.learned_variance)

    @property
    def nuisance(self) -> NuisancePrior:
        """What is unknown beside image and taps."""
        return NuisancePrior(self.phase_std_rad, self.timing_std_samples, self.cfo_std_hz, self.noise_std)
