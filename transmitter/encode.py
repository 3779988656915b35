"""Encode images into symbols and pack them into frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdr.errors import InputError
from sdr.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from receiver.codecs.codec import Codec, ImageShape
    from receiver.separation.methods import SeparationMethod
    from sdr.framing import FrameContent
    from sdr.layout import FrameLayout
    from sdr.symbols import Symbols


@dataclass(frozen=True, eq=False)
class Transmission:
    """Images as they are sent.

    Attributes:
        symbols: of successive images, one entry for neighbours of one shape that are sent in one way.
        frames: in sending order.
        layout: of the frames.
    """

    symbols: tuple[Symbols, ...]
    frames: tuple[FrameContent, ...]
    layout: FrameLayout

    @classmethod
    def of(cls, symbols: Sequence[Symbols], layout: FrameLayout, first_frame: int = 0) -> Transmission:
        """Pack symbols into frames.

        Args:
            symbols: in sending order.
            layout: of the frames.
            first_frame: number of the first frame.

        Raises:
            InputError: symbols that a header can't describe.
        """
        from sdr.framing import pack_frames

        frames: list[FrameContent] = []
        for each in symbols:
            frames += pack_frames(each, layout, first_frame=first_frame + len(frames))
        return cls(tuple(symbols), tuple(frames), layout)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the images in sending order, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(each.image_ids for each in self.symbols)))

    def samples(self, leading_gap_samples: int | None = None) -> NDArray[np.complex64]:
        """Modulate the frames; see `sdr.modem.modulate_stream`."""
        from sdr.modem import modulate_stream

        return modulate_stream(self.frames, self.layout, leading_gap_samples)


@dataclass(frozen=True)
class Ways:
    """How images are sent, one way after the other.

    Attributes:
        methods: separation methods; None: the JSCC codec.
        fading: separation methods choose schemes for fading, not for white noise.
    """

    methods: Sequence[SeparationMethod | None] = (None,)
    fading: bool = False


def encode_folder(
    folder: Path,
    codec: Codec,
    layout: FrameLayout,
    csnr_db: float,
    *,
    ways: Ways = Ways(),  # frozen
    shape: ImageShape | None = None,
    refine_steps: int = 0,
    progress: Progress = silent,
) -> Transmission:
    """Encode the images of a folder, named after their files, once for each way to send them.

    Args:
        folder: of the images.
        codec: any that takes them; separation methods use as many symbols.
        layout: of the frames.
        csnr_db: channel SNR that encoder and decoder, and schemes, are made for.
        ways: in which the images are sent.
        shape: (C, H, W) that the images must have, None where any height and width; None: what the codec takes.
        refine_steps: steps in which the codec's symbols are refined.
        progress: called as images are encoded.

    Raises:
        InputError: something in the folder is no image, or two names end in one id.
    """
    from receiver.images.files import load_images
    from sdr.header import image_id_from_stem

    if not -20 <= csnr_db <= 60:
        raise InputError(f"--csnr-db {csnr_db:g} is outside -20..60 dB. The codec is trained for 0..14 dB.")
    stems, images = load_images(folder, codec.accepted_shape if shape is None else shape)
    ids = [image_id_from_stem(stem) for stem in stems]
    check_unique(ids, stems)
    symbols: list[Symbols] = []
    for method in ways.methods:
        if method is None:
            sent = encode_images(ids, images, codec, layout, csnr_db, refine_steps=refine_steps, progress=progress)
        else:
            from transmitter.separation import encode_separately

            sent = encode_separately(ids, images, method, codec, layout, csnr_db, fading=ways.fading, progress=progress)
        symbols += sent.symbols
    return Transmission.of(symbols, layout)


def encode_images(
    ids: Sequence[str],
    images: Sequence[Tensor] | Tensor,
    codec: Codec,
    layout: FrameLayout,
    csnr_db: float,
    *,
    refine_steps: int = 0,
    first_frame: int = 0,
    progress: Progress = silent,
) -> Transmission:
    """Encode images; neighbours of one shape may share a frame.

    Args:
        ids: of the images.
        images: (C, H, W) each.
        codec: any that takes them.
        layout: of the frames.
        csnr_db: channel SNR that encoder and decoder are made for.
        refine_steps: steps in which the symbols are refined.
        first_frame: number of the first frame.
        progress: called as symbols are refined.

    Raises:
        InputError: an image that the codec or a header can't take.
    """
    import numpy as np
    import torch

    from receiver.codecs.side_information import VariableRateCodec
    from sdr.side_block import encode_side
    from sdr.symbols import Symbols
    from transmitter.refine import encode_refined

    symbols: list[Symbols] = []
    refined = 0

    def on_step(count: int) -> None:
        nonlocal refined
        refined += count
        progress("refine the symbols", refined, refine_steps * len(images))

    for shape, group in itertools.groupby(range(len(images)), key=lambda index: tuple(images[index].shape)):
        members = list(group)
        fitting = codec.for_shape((shape[0], shape[1], shape[2]))
        # With side information every image has symbols of its own number.
        for part in [[index] for index in members] if isinstance(fitting, VariableRateCodec) else [members]:
            batch = torch.stack([images[index] for index in part])
            fixed, side = _with_side(fitting, batch, csnr_db)
            z = encode_refined(fixed, batch, csnr_db, refine_steps, on_step=on_step).numpy()
            if side:
                z = np.concatenate([encode_side(side, csnr_db)[None], z], axis=1)
            chosen = tuple(ids[index] for index in part)
            symbols.append(Symbols(z, codec.digest, chosen, fitting.image_shape, csnr_db, len(side)))
    return Transmission.of(symbols, layout, first_frame)


def _with_side(codec: Codec, images: Tensor, csnr_db: float) -> tuple[Codec, bytes]:
    """Return a codec whose rate is fixed, and the side information that fixes it for one image; else no bytes."""
    import torch

    from receiver.codecs.side_information import VariableRateCodec

    if not isinstance(codec, VariableRateCodec):
        return codec, b""
    with torch.no_grad():
        side = codec.encode_image(images[0], csnr_db).side
    return codec.given(side), side.to_bytes()


def check_unique(ids: Sequence[str], stems: Sequence[str]) -> None:
    """Refuse two images with one id.

    Raises:
        InputError: names the two files.
    """
    first: dict[str, str] = {}
    for image_id, stem in zip(ids, stems, strict=True):
        if image_id in first:
            raise InputError(f"{first[image_id]} and {stem} would both be sent as {image_id!r}. Rename one of them.")
        first[image_id] = stem
