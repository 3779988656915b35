"""The methods that send images by an image codec and 5G LDPC, by name.

There are three for each image codec: the scheme is chosen by the channel SNR, or is always the same one; and the images
of the first are refined by the diffusion prior.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from receiver.separation.sources import SOURCES

#: How the scheme is chosen: by the channel SNR that the transmitter is told, or one for all.
Choice = Literal["adaptive", "fixed"]


@dataclass(frozen=True)
class SeparationMethod:
    """Everything that the rest of the project knows of such a method.

    Attributes:
        source: name of the image codec.
        choice: of the scheme.
        title: the name that reports show.
        summary: one line for the manual.
        refined: the decoded images are refined by the prior.
        colour: of its curves, "#rrggbb"; None: whichever is free.
    """

    source: str
    choice: Choice
    title: str
    summary: str
    refined: bool = False
    colour: str | None = None

    @property
    def needs_denoiser(self) -> bool:
        """Whether it can't run without a diffusion prior."""
        return self.refined

    @property
    def blind(self) -> bool:
        """Whether it uses no pilot, which none of them does."""
        return False


_COLOURS = {"vvc": "#9467bd", "hevc": "#e377c2", "avif": "#17becf", "jpeg-xl": "#bcbd22"}


def _methods_of(source: str) -> dict[str, SeparationMethod]:
    name = SOURCES[source].title
    return {
        f"{source}-ldpc": SeparationMethod(
            source,
            "adaptive",
            f"{name} + 5G LDPC",
            f"{name}, then 5G LDPC and QAM of the best scheme for the channel SNR",
            colour=_COLOURS.get(source),
        ),
        f"{source}-ldpc-fixed": SeparationMethod(
            source, "fixed", f"{name} + 5G LDPC, one scheme", f"{name}, then 5G LDPC and QAM of one scheme for all"
        ),
        f"{source}-ldpc-refined": SeparationMethod(
            source,
            "adaptive",
            f"{name} + 5G LDPC, refined by the prior",
            f"what {source}-ldpc decodes, refined by the prior: a stand-in for generative compression",
            refined=True,
        ),
    }


SEPARATION_METHODS: Mapping[str, SeparationMethod] = {
    name: method for source in SOURCES for name, method in _methods_of(source).items()
}


def lost_blocks(images: Iterable[tuple[str, bool]]) -> list[str]:
    """Return a line for each method that lost blocks: what was found, what is shown, what helps.

    Args:
        images: name of the method and whether the image was accepted, of each; other methods are left out.

    >>> lost_blocks([("jscc", False), ("vvc-ldpc", True), ("vvc-ldpc", False)])  # doctest: +ELLIPSIS
    ['vvc-ldpc: 1 of 2 blocks failed the checksum; their images show the mean colour. Raise ...']
    """
    accepted: dict[str, list[bool]] = {}
    for method, right in images:
        if method.partition(":")[0] in SEPARATION_METHODS:
            accepted.setdefault(method, []).append(right)
    return [
        f"{method}: {found.count(False)} of {len(found)} blocks failed the checksum; their images show the mean "
        "colour. Raise the SNR, or tell the transmitter a lower one."
        for method, found in accepted.items()
        if not all(found)
    ]
