"""What fits together before anything is decoded: frames and codec, methods and layout, batches and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from receiver.bundles.bundle import Bundle
from receiver.bundles.side_models import CONFIDENCE_FILE
from receiver.codecs.codec import Codec
from receiver.codecs.side_information import VariableRateCodec
from receiver.images.files import MAX_PIXELS
from receiver.samplers import METHODS
from receiver.samplers.antennas import KNOWING
from receiver.samplers.variants import ALL_METHODS, Variant
from receiver.separation.chain import chain_of
from receiver.sync.frame import SyncedFrame
from sdr.errors import ConfigError, ModelError
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.side_block import side_cells

T = TypeVar("T")

#: Pixels decoded at once, but for a single image: what a sampler keeps for a gradient grows with them.
BATCH_PIXELS = 2_000_000


def batches_of_images(frames: Iterable[tuple[T, SyncedFrame]], batch_size: int, draws: int = 1) -> Iterator[list[T]]:
    """Group items into about `batch_size` images of one shape, by the frame beside each; every draw counts.

    They are cut only where a new image begins, or frames of another codec; an image with side information is alone.
    """
    batch: list[T] = []
    images, kind = 0, None
    for item, frame in frames:
        header = frame.header
        assert header is not None
        begins = header.symbol_offset == 0
        most = 1 if header.side_bytes else images_at_once(header.image_shape, batch_size, draws)
        own = (header.image_shape, header.symbols_per_image, header.side_bytes, header.codec_digest)
        if batch and (own != kind or (begins and images >= most)):
            yield batch
            batch, images = [], 0
        batch.append(item)
        kind = own
        images += len(header.image_ids) if begins else 0
    if batch:
        yield batch


def images_at_once(shape: tuple[int, int, int], batch_size: int, draws: int) -> int:
    """Return how many images (C, H, W) are decoded together, so many draws of each."""
    return max(1, min(batch_size, BATCH_PIXELS // (shape[1] * shape[2])) // draws)


def check_draws(draws: int, shape: tuple[int, int, int]) -> None:
    """Refuse more draws of images (C, H, W), which are decoded together, than `BATCH_PIXELS` allows.

    Raises:
        ConfigError: tells how many fit.

    >>> check_draws(40, (3, 256, 256))
    Traceback (most recent call last):
        ...
    sdr.errors.ConfigError: 40 draws of 256x256 pixels don't fit in memory together, at most 30 do. Give fewer draws.
    """
    most = max(1, BATCH_PIXELS // (shape[1] * shape[2]))
    if draws > most:
        raise ConfigError(
            f"{draws} draws of {shape[2]}x{shape[1]} pixels don't fit in memory together, at most {most} do. "
            "Give fewer draws."
        )


def check_pilots(variants: Iterable[Variant], layout: FrameLayout) -> None:
    """Refuse methods that need pilots where a layout has none.

    Raises:
        ConfigError: names one.
    """
    for variant in variants:
        if not variant.blind and layout.pilot_symbols == 0:
            raise ConfigError(
                f"Method {variant.label!r} needs pilots, layout '{layout.name}' has none: use --method blind."
            )


def antennas_refused(variant: Variant, antennas: int) -> str:
    """Return why a method can't decode so many antennas, and what to do; empty where it can."""
    if antennas > 1 and variant.follow and variant.blind:
        return (
            f"{variant.label} follows the taps of one antenna, and there are {antennas}. Leave follow=true out, use a "
            "method that uses pilots, or decode one antenna: --use-antennas 0."
        )
    if antennas > 1 and variant.blind and variant.method not in KNOWING:
        several = ", ".join(KNOWING)
        return f"{variant.method} decodes one antenna; use one of {several} for several, or --use-antennas 0."
    return ""


def frames_by_codec(frames: Iterable[SyncedFrame]) -> dict[str, list[SyncedFrame]]:
    """Return frames with headers by the digest of what made their symbols, in the order of their first frames."""
    found: dict[str, list[SyncedFrame]] = {}
    for frame in frames:
        assert frame.header is not None
        found.setdefault(frame.header.codec_digest, []).append(frame)
    return found


def decodes(variant: Variant, digest: str, bundle: Bundle) -> bool:
    """Return whether a method decodes frames with this codec digest in their headers."""
    if variant.separation is None:
        return digest == bundle.codec.digest[:8]
    chain = chain_of(digest)
    return chain is not None and chain.belongs_to(variant.separation)


def check_codec(frames: Sequence[SyncedFrame], bundle: Bundle) -> None:
    """Refuse frames whose images another JSCC codec made.

    Raises:
        ModelError: names its digest.
    """
    found = {f.header.codec_digest for f in frames if f.header is not None}
    strangers = {digest for digest in found - {bundle.codec.digest[:8]} if chain_of(digest) is None}
    if strangers:
        raise ModelError(
            f"The images were encoded by codec {', '.join(sorted(strangers))}, bundle '{bundle.name}' has "
            f"{bundle.codec.digest[:8]}. Give the bundle that was used to transmit with --bundle."
        )


def check_shapes(headers: Iterable[FrameHeader], bundle: Bundle) -> None:
    """Refuse images that the codec can't have made, whatever the headers say.

    Raises:
        ModelError: one of them.
    """
    kinds = {
        (header.image_shape, header.symbols_per_image, header.side_bytes, header.csnr_db): header for header in headers
    }
    for (shape, count, *_), header in kinds.items():
        if shape[1] * shape[2] > MAX_PIXELS or not _could_be(bundle.for_shape(shape).codec, header):
            raise ModelError(
                f"A header tells of an image of {shape[2]}x{shape[1]} pixels in {count} symbols, which bundle "
                f"'{bundle.name}' does not make. Give the bundle that was used to transmit with --bundle."
            )


def _could_be(codec: Codec, header: FrameHeader) -> bool:
    """Return whether a codec for images of a header's shape makes as many symbols and as much side information."""
    if isinstance(codec, VariableRateCodec):
        return 0 < side_cells(header.side_bytes, header.csnr_db) < header.symbols_per_image
    return not header.side_bytes and codec.num_symbols == header.symbols_per_image


def check_models(variants: Iterable[Variant], bundle: Bundle) -> None:
    """Refuse methods that need a prior or a network of confidence where there is none, or a class that is not known.

    Raises:
        ConfigError: names one, and the methods that do without.
    """
    denoiser = bundle.denoiser
    for variant in variants:
        if not ALL_METHODS[variant.method].needs_denoiser:
            continue
        if denoiser is None:
            without = ", ".join(name for name, known in ALL_METHODS.items() if not known.needs_denoiser)
            raise ConfigError(
                f"Bundle '{bundle.name}' has no prior, which {variant.method} needs; use --method {without}. Or add "
                "--prior with a bundle that has one."
            )
        known = METHODS.get(variant.method)
        if known is not None and known.needs_error_net and not (bundle.path / CONFIDENCE_FILE).is_file():
            raise ConfigError(
                f"Bundle '{bundle.name}' has no {CONFIDENCE_FILE}, which {variant.method} needs; make it with `ota "
                f"train confidence --out {bundle.path}`, or use --method {variant.method.replace('land', 'guided')}."
            )
        if variant.settings.label >= 0:
            denoiser.with_label(variant.settings.label)
        elif denoiser.classes:
            raise ConfigError(
                f"The prior is told one of {denoiser.classes} classes. Give it with the method, as in "
                f"{variant.method}:label=0."
            )
