"""Name a method with settings of its own, as `hifi:steps=10`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from receiver.measurement.model import Mode
from receiver.samplers import METHODS, MethodSettings
from receiver.samplers.methods import RegisteredMethod
from receiver.separation.methods import SEPARATION_METHODS, SeparationMethod
from sdr.errors import ConfigError, did_you_mean

#: Everything that images can be sent and decoded by.
ALL_METHODS: Mapping[str, RegisteredMethod | SeparationMethod] = {**METHODS, **SEPARATION_METHODS}


@dataclass(frozen=True)
class Variant:
    """A method with its own settings and those of its forward operator.

    Attributes:
        label: as it was asked for, such as "hifi:zeta=0.5,mode=time". method: name in `ALL_METHODS`.
        settings: of the sampler.
        spread, decay: prior of the channel, see :func:`channel_prior`.
        mode: of the forward operator, see :class:`receiver.measurement.model.Measurement`; None: per carrier where
            that is exact, else through time.
        follow: whether taps are followed where they move within a frame, see :mod:`receiver.following`.
    """

    label: str
    method: str
    settings: MethodSettings
    spread: int = 8
    decay: float = 4.0
    mode: Mode | None = None
    follow: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.spread <= 256 or not 0 < self.decay <= 1e6:
            raise ConfigError(f"{self.label}: spread = {self.spread} must be 1..256, decay = {self.decay} above 0.")
        if self.mode not in (None, "frequency", "time"):
            raise ConfigError(f"{self.label}: mode must be frequency or time, found {self.mode!r}.")
        if self.mode == "time" and self.blind:
            raise ConfigError(f"{self.label}: blind methods solve for the channel in the frequency domain only.")

    @property
    def blind(self) -> bool:
        """Whether it must do without pilots."""
        return ALL_METHODS[self.method].blind

    @property
    def separation(self) -> SeparationMethod | None:
        """The image codec and 5G LDPC that it decodes; None where it decodes a JSCC codec's symbols."""
        return SEPARATION_METHODS.get(self.method)


def sending_methods(variants: Iterable[Variant]) -> tuple[SeparationMethod | None, ...]:
    """Return the ways in which images must be sent for methods to decode them, each once; None: by a JSCC codec."""
    ways = {
        None if way is None else (way.source, way.choice): way for way in (variant.separation for variant in variants)
    }
    return tuple(ways.values())


_OPERATOR_KINDS = {"spread": "int", "decay": "float", "mode": "str", "follow": "bool"}


def method_variant(text: str, steps: int | None = None, **operator: Any) -> Variant:
    """A method by name, or with settings: "NAME:KEY=VALUE,..".

    Keys are those of `MethodSettings`, and spread, decay, mode and follow of `Variant`.

    Args:
        steps: reverse steps, unless `text` gives them. operator: the latter, unless `text` gives them.

    Raises:
        ConfigError: unknown method or key, or a bad value.

    >>> method_variant("hifi:steps=50,decay=2").settings.steps
    50
    """
    name, _, options = text.partition(":")
    if name in SEPARATION_METHODS:
        if options:
            raise ConfigError(f"{text}: {name} has no settings; leave {options!r} out.")
        return Variant(name, name, MethodSettings(steps=1), **operator)
    kinds = {item.name: str(item.type) for item in fields(MethodSettings)} | _OPERATOR_KINDS
    given: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in kinds:
            raise ConfigError(f"{text}: no setting is called {key!r}; {did_you_mean(key, kinds)}")
        try:
            given[key] = _PARSERS[kinds[key]](value)
        except (ValueError, KeyError):
            raise ConfigError(f"{text}: {key} must be {kinds[key]}, found {value!r}.") from None
    settings = method_settings(name, given.pop("steps", steps))
    operator |= {key: given.pop(key) for key in _OPERATOR_KINDS if key in given}
    return Variant(text, name, replace(settings, **given), **operator)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "int | None": int,
    "float": float,
    "str": str,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
}


def method_settings(method: str, steps: int | None = None) -> MethodSettings:
    """A method's default settings, with another number of steps where given.

    The measurement strength goes with the number of steps as it was found to: about steps ** -0.4.

    Raises:
        ConfigError: unknown method or a bad number of steps.
    """
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}; use one of {', '.join(ALL_METHODS)}.")
    settings = METHODS[method].settings
    if steps is None:
        return settings
    if steps < 1:
        raise ConfigError(f"Found {steps} steps; at least 1 is needed.")
    factor = (settings.steps / steps) ** 0.4
    return replace(settings, steps=steps, zeta=settings.zeta * factor, gamma=settings.gamma * factor)


def sized_settings(settings: MethodSettings, shape: tuple[int, int, int]) -> MethodSettings:
    """Settings made on 32x32 pixels for images (C, H, W): the strengths go with the fourth root of the pixels.

    Found on photographs of 256x256: with the square root, as the gradient of a norm asks for, HiFi-DiffCom fitted the
    noise (normalised residual 0.34, and grain in every smooth part); so it is 0.9.
    """
    factor = (shape[1] * shape[2] / _SETTINGS_PIXELS) ** 0.25
    return replace(settings, zeta=settings.zeta * factor, gamma=settings.gamma * factor)


#: Pixels of the images that the methods' settings were found on.
_SETTINGS_PIXELS = 32 * 32
