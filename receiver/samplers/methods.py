"""The methods by name, and `sample`, which runs one of them. Adding a method is adding an entry to `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from receiver.measurement.model import Measurement
from receiver.priors.denoiser import Denoiser, NetworkDenoiser
from receiver.samplers.back_projection import back_projection, blind_back_projection
from receiver.samplers.blind.methods import algorithm_3, blind, blind_closed_form, blind_deterministic
from receiver.samplers.decoupled import blind_decoupled, decoupled
from receiver.samplers.deterministic import deterministic, settled
from receiver.samplers.diffcom import diffcom, pixel_aligned, post_processing
from receiver.samplers.hifi import hifi
from receiver.samplers.landing import blind_landing, landing
from receiver.samplers.moments import blind_moment_projection, moment_projection
from receiver.samplers.nuisance import NuisanceEstimate, NuisancePrior
from receiver.samplers.posterior import Posterior, mean_of
from receiver.samplers.problem import Channel, Method, Models, Problem
from receiver.samplers.pseudo_inverse import blind_pseudo_inverse, pseudo_inverse
from receiver.samplers.randomness import frame_randomness, image_randomness
from receiver.samplers.settings import MethodSettings
from sdr.errors import ConfigError, InputError


@dataclass(frozen=True)
class RegisteredMethod:
    """Everything that the rest of the project knows of a method.

    Attributes:
        run: the method.
        settings: its defaults.
        title: the name that reports show.
        summary: one line for the manual.
        blind: it uses no pilot.
        needs_denoiser: it can't run without a diffusion prior.
        needs_error_net: nor without the network that tells how wrong a decoded image is.
        colour: of its curves, "#rrggbb"; None: whichever is free.
    """

    run: Method
    settings: MethodSettings
    title: str
    summary: str
    blind: bool = False
    needs_denoiser: bool = True
    needs_error_net: bool = False
    colour: str | None = None


_HIFI = MethodSettings(steps=20, zeta=0.3, gamma=0.3, eta=0.5, least_dsnr=6)
_DIFFCOM = MethodSettings(steps=100, zeta=0.7)
_BACK_PROJECTION = MethodSettings(steps=7, eta=1.0, fit=0.5)
_PSEUDO_INVERSE = MethodSettings(steps=5, eta=0.5, rate=3.0)
_LANDING = MethodSettings(steps=3, eta=0.5, rate=3.0)
_DECOUPLED = MethodSettings(steps=8, iterations=4, pixel_var=0.25)
_MOMENTS = MethodSettings(steps=14, iterations=2)
_ALGORITHM_3 = MethodSettings(steps=1000, zeta=0.3, zeta_h=0.1)

METHODS: Mapping[str, RegisteredMethod] = {
    "jscc": RegisteredMethod(
        deterministic,
        MethodSettings(steps=1),
        title="deterministic decoder",
        summary="deterministic JSCC decoder",
        needs_denoiser=False,
        colour="#7f7f7f",
    ),
    "diffcom": RegisteredMethod(diffcom, _DIFFCOM, title="DiffCom", summary="DiffCom, Algorithm 1", colour="#1f77b4"),
    "hifi": RegisteredMethod(hifi, _HIFI, title="HiFi-DiffCom", summary="HiFi-DiffCom, Algorithm 2", colour="#d62728"),
    "hifi-no-confirming": RegisteredMethod(
        hifi,
        replace(_HIFI, gamma=0.0),
        title="HiFi-DiffCom without confirming",
        summary="adaptive start without the confirming term (Table IV)",
    ),
    "hifi-from-noise": RegisteredMethod(
        hifi,
        MethodSettings(steps=100, zeta=0.3, gamma=0.3, adaptive=False),
        title="HiFi-DiffCom from noise",
        summary="the confirming term without the adaptive start (Table IV)",
    ),
    "diffcom-pixel": RegisteredMethod(
        pixel_aligned,
        replace(_DIFFCOM, gamma=0.7),
        title="DiffCom, aligned in pixels",
        summary="DiffCom with pixel alignment (Table V)",
    ),
    "bp": RegisteredMethod(
        back_projection,
        _BACK_PROJECTION,
        title="back projection",
        summary="back projection through the decoder (DDNM): no gradient",
        colour="#ff7f0e",
    ),
    "guided": RegisteredMethod(
        pseudo_inverse,
        _PSEUDO_INVERSE,
        title="pseudo-inverse guidance",
        summary="guidance by the pseudo-inverse of the linearised encoder (PiGDM)",
        colour="#9467bd",
    ),
    "land": RegisteredMethod(
        landing,
        _LANDING,
        title="landing",
        summary="few steps of guidance by the pseudo-inverse, from the level that fits the decoder's error",
        needs_error_net=True,
        colour="#1a9850",
    ),
    "daps": RegisteredMethod(
        decoupled,
        _DECOUPLED,
        title="decoupled annealing",
        summary="decoupled annealing (DAPS) with the true likelihood",
        colour="#17becf",
    ),
    "tmpd": RegisteredMethod(
        moment_projection,
        _MOMENTS,
        title="moment projection",
        summary="guidance with the covariance that the prior tells (TMPD): draws of the posterior, for spread and mean",
        colour="#393b79",
    ),
    "blind": RegisteredMethod(
        blind,
        replace(_HIFI, candidates=10),
        title="blind DiffCom (no pilots used)",
        summary="Blind-DiffCom: channel by the symbols' statistics, then the posterior sampler",
        blind=True,
        colour="#2ca02c",
    ),
    "blind-turbo": RegisteredMethod(
        blind,
        replace(_HIFI, start="codebook"),
        title="blind DiffCom from a codebook",
        summary="Blind-DiffCom: evidence-ranked images, turbo rounds, posterior sampler",
        blind=True,
    ),
    "blind-jscc": RegisteredMethod(
        blind_deterministic,
        MethodSettings(steps=1, candidates=4, turbo_rounds=8),
        title="deterministic decoder (no pilots used)",
        summary="deterministic JSCC decoder with the channel found as by blind",
        blind=True,
        needs_denoiser=False,
        colour="#8c564b",
    ),
    "blind-bp": RegisteredMethod(
        blind_back_projection,
        replace(_BACK_PROJECTION, candidates=10),
        title="back projection (no pilots used)",
        summary="back projection, the taps drawn at every step",
        blind=True,
        colour="#e377c2",
    ),
    "blind-guided": RegisteredMethod(
        blind_pseudo_inverse,
        replace(_PSEUDO_INVERSE, candidates=10),
        title="pseudo-inverse guidance (no pilots used)",
        summary="guidance by the pseudo-inverse, the taps drawn at every step",
        blind=True,
        colour="#bcbd22",
    ),
    "blind-land": RegisteredMethod(
        blind_landing,
        replace(_LANDING, candidates=10),
        title="landing (no pilots used)",
        summary="landing, the taps drawn at every step",
        blind=True,
        needs_error_net=True,
    ),
    "blind-daps": RegisteredMethod(
        blind_decoupled,
        replace(_DECOUPLED, candidates=10),
        title="decoupled annealing (no pilots used)",
        summary="decoupled annealing, the taps drawn at every level",
        blind=True,
    ),
    "blind-tmpd": RegisteredMethod(
        blind_moment_projection,
        replace(_MOMENTS, candidates=10),
        title="moment projection (no pilots used)",
        summary="moment projection, the taps drawn at every step",
        blind=True,
    ),
    "blind-closed-form": RegisteredMethod(
        blind_closed_form,
        _DIFFCOM,
        title="blind DiffCom from noise",
        summary="DiffCom with the closed-form channel",
        blind=True,
    ),
    "blind-algorithm3": RegisteredMethod(
        algorithm_3,
        _ALGORITHM_3,
        title="Algorithm 3",
        summary="Blind-DiffCom, Algorithm 3 with line 5 mended",
        blind=True,
    ),
    "blind-algorithm3-printed": RegisteredMethod(
        partial(algorithm_3, printed=True),
        _ALGORITHM_3,
        title="Algorithm 3 as printed",
        summary="Blind-DiffCom, Algorithm 3 as printed (diverges; a baseline)",
        blind=True,
    ),
    "jscc-dps": RegisteredMethod(
        post_processing,
        MethodSettings(steps=100, gamma=0.7),
        title="decoder, refined in pixels",
        summary="JSCC refined by the prior in pixels",
    ),
}

#: The samplers that docs/results.md finds best for images of one size: with pilots, and without.
BEST_OF_ONE_SIZE = ("guided", "blind-guided")
#: The same for photographs of any size (docs/photographs.md).
BEST_OF_ANY_SIZE = ("bp", "blind-bp")


def sample(
    method: str,
    measurement: Measurement,
    channel: Channel,
    models: Models,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    settings: MethodSettings | None = None,
    draws: int = 1,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Posterior:
    """Decode a batch of images with a method of :data:`METHODS`.

    Args:
        generator: of all noise; or one per frame: then what a frame draws does not depend on those decoded with it.
        settings: the method's defaults where None.
        draws: independent samples per image, all in one batch; a blind method draws its channel R times too.
        on_step: called with each step's index and x0_hat.

    Raises:
        ConfigError: settings that no method can have, or images of other sizes in codec and prior.
        InputError: what was received holds values that are not finite.
    """
    if draws < 1:
        raise ConfigError(f"Found {draws} draws; at least 1 is needed.")
    if models.denoiser is not None and models.codec.image_shape != models.denoiser.image_shape:
        raise ConfigError(
            f"The codec has images of shape {models.codec.image_shape}, the prior of {models.denoiser.image_shape}; "
            "use models of one bundle."
        )
    spoiled = int((~measurement.received_cells().isfinite()).sum())
    if spoiled:
        raise InputError(f"{spoiled} of the received symbols are not finite. Check the recording.")
    chosen = METHODS[method]
    if chosen.blind:
        channel = replace(channel, h=None)
    if draws > 1:
        measurement = measurement.repeat(draws)
        h = None if channel.h is None else channel.h.repeat(draws, 1)
        channel = replace(channel, prior=channel.prior.repeat(draws), h=h)
    of_frames = frame_randomness(generator, draws)
    of_images = image_randomness(of_frames, measurement.frame_of_image)
    settings = settings or chosen.settings
    models = replace(models, denoiser=_of_class(models.denoiser, settings.label))
    nuisance = NuisanceEstimate.begin(measurement, settings.nuisance)
    problem = Problem(nuisance, models, channel, settings, of_images, of_frames, draws, on_step)
    if settings.nuisance != NuisancePrior() and channel.h is not None:
        problem = settled(problem)
    return mean_of([chosen.run(_counted_on(problem, run)) for run in range(settings.average)])


def _counted_on(problem: Problem, run: int) -> Problem:
    """Return the problem with steps counted behind those of `run` runs before."""
    on_step, before = problem.on_step, run * problem.settings.steps
    if on_step is None or not run:
        return problem
    return replace(problem, on_step=lambda index, x0_hat: on_step(before + index, x0_hat))


def _of_class(denoiser: Denoiser | None, label: int) -> Denoiser | None:
    """Return the prior for images of a class; itself where none is given.

    Raises:
        ConfigError: it has no such class.
    """
    if denoiser is None or label < 0:
        return denoiser
    if not isinstance(denoiser, NetworkDenoiser):
        raise ConfigError(f"The prior has no classes, found label = {label}. Leave label out.")
    return denoiser.with_label(label)
