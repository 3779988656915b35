"""Pairs of modulation and code rate, as rows of the 5G tables (3GPP TS 38.214, 5.1.3.1) name them."""

from __future__ import annotations

from dataclasses import dataclass

from sdr.errors import ConfigError, did_you_mean

#: Bits of a symbol of each modulation.
MODULATIONS = {"qpsk": 2, "16qam": 4, "64qam": 6, "256qam": 8}


@dataclass(frozen=True)
class Scheme:
    """A modulation and a code rate.

    Attributes:
        modulation: key of `MODULATIONS`.
        rate_1024: code rate times 1024, as the standard's tables have it.
    """

    modulation: str
    rate_1024: float

    @property
    def name(self) -> str:
        """Name of the pair.

        >>> Scheme("16qam", 490).name
        '16qam-490'
        """
        return f"{self.modulation}-{self.rate_1024:g}"

    @property
    def bits_per_symbol(self) -> int:
        """Coded bits of a symbol."""
        return MODULATIONS[self.modulation]

    @property
    def code_rate(self) -> float:
        """Information bits of a coded bit."""
        return self.rate_1024 / 1024

    @property
    def efficiency(self) -> float:
        """Information bits of a symbol."""
        return self.bits_per_symbol * self.code_rate


#: Every pair that is used, the most robust first. Rates below 1/5 would need repetition, which no pair here has.
SCHEMES = (
    Scheme("qpsk", 251),
    Scheme("qpsk", 308),
    Scheme("qpsk", 449),
    Scheme("qpsk", 602),
    Scheme("16qam", 378),
    Scheme("16qam", 490),
    Scheme("16qam", 616),
    Scheme("64qam", 466),
    Scheme("64qam", 567),
    Scheme("64qam", 666),
    Scheme("64qam", 772),
    Scheme("256qam", 682.5),
    Scheme("256qam", 797),
)

#: What is sent whatever the channel, so that the cliff is seen.
FIXED_SCHEME = Scheme("16qam", 490)


def find_scheme(name: str) -> Scheme:
    """Return the pair of this name.

    Raises:
        ConfigError: there is none.
    """
    for scheme in SCHEMES:
        if scheme.name == name:
            return scheme
    names = [scheme.name for scheme in SCHEMES]
    raise ConfigError(f"There is no scheme {name!r}; {did_you_mean(name, names)}")
