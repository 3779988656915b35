"""What a sweep compares, read from its TOML file: conditions, methods, images."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from receiver.codecs.codec import ImageShape
from receiver.images.fashion_mnist import FASHION_SHAPE, load_fashion_mnist, sample_indices
from receiver.images.files import load_image_folder
from receiver.samplers.variants import method_variant
from receiver.separation.sources import SOURCES
from sdr.documents import from_table, read_document
from sdr.errors import ConfigError, did_you_mean
from sdr.framing import images_per_frame
from sdr.header import image_id_from_stem
from sdr.layout import FrameLayout, load_layout


@dataclass(frozen=True)
class Condition:
    """What images are sent under.

    Args:
        name: label of the point.
        channel: as in :class:`Sweep`.
        csnr_db: channel SNR, dB.
        clip_ratio: magnitude limit of the transmitter in units of the rms; None: the layout's.
        cp_samples: cyclic prefix; None: the layout's.
    """

    name: str
    channel: str
    csnr_db: float
    clip_ratio: float | None = None
    cp_samples: int | None = None

    def layout(self, layout: FrameLayout) -> FrameLayout:
        """Return the layout with what the condition changes.

        Raises:
            LayoutError: a ratio or a prefix that no layout can have.
        """
        changes = {key: getattr(self, key) for key in ("clip_ratio", "cp_samples")}
        return replace(layout, **{key: value for key, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Sweep:
    """One experiment: conditions and methods to compare.

    Args:
        name: for titles and file names.
        channel: options of the simulated radio apart from csnr_db, seed and block_samples, such as
            "taps=8,decay=4,cfo_hz=300"; empty for white noise alone.
        csnr_db: channel SNRs, dB; also what the encoder is given.
        methods: as `receiver.samplers.variants.method_variant` takes them; with "jscc" among them the noise null is
        computed.
        conditions: what to compare instead of channel SNRs; then csnr_db has one value, for those that name none.
        num_images: held-out images of Fashion-MNIST's test split, spread evenly over its classes.
        images: a folder of images to use instead; empty: the test split.
        layout: frame layout, a name or a file.
        bundle: model bundle, a name or a folder.
        prior: bundle whose prior is taken; empty: that of `bundle`.
        images_per_frame: most images in a frame; 0: as many as the layout takes.
        redraw_frames: the taps are drawn anew every so many frames.
        refine_steps: in which the transmitter refines the symbols of each image.
        capacity: image codec whose PSNR at the channel's capacity is drawn as a line; empty: none.
        batch_size: images decoded at once.
        seed: of channel, noise, samplers and the choice of images.
    """

    name: str
    csnr_db: tuple[float, ...]
    methods: tuple[str, ...]
    channel: str = ""
    num_images: int = 256
    images: str = ""
    layout: str = "paper"
    bundle: str = "fashion"
    prior: str = ""
    images_per_frame: int = 0
    redraw_frames: int = 1
    refine_steps: int = 0
    capacity: str = ""
    conditions: tuple[Condition, ...] = ()
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "._-" for c in self.name):
            raise ConfigError(f"name = {self.name!r} must be letters, digits and . _ - only.")
        if not self.csnr_db or len(set(self.csnr_db)) != len(self.csnr_db):
            raise ConfigError(f"csnr_db = {list(self.csnr_db)} must be a list of different numbers, at least one.")
        if not all(math.isfinite(value) and -20 <= value <= 60 for value in self.csnr_db):
            raise ConfigError(f"csnr_db = {list(self.csnr_db)} must lie in -20..60 dB.")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ConfigError(f"methods = {list(self.methods)} must be a list of different names, at least one.")
        for method in self.methods:
            method_variant(method)
        names = [condition.name for condition in self.conditions]
        if len(set(names)) != len(names) or not all(names):
            raise ConfigError(f"conditions are called {', '.join(names)}; give each a name of its own.")
        if self.conditions and len(self.csnr_db) != 1:
            raise ConfigError(f"csnr_db = {list(self.csnr_db)} must be one value where there are conditions.")
        for key in ("num_images", "redraw_frames", "batch_size"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)} must be at least 1.")
        if self.num_images < 2 or self.seed < 0:
            raise ConfigError(f"num_images = {self.num_images} must be at least 2 and seed = {self.seed} at least 0.")
        if self.capacity and self.capacity not in SOURCES:
            hint = did_you_mean(self.capacity, SOURCES)
            raise ConfigError(f"capacity = {self.capacity!r} is no image codec; {hint}.")
        if self.refine_steps < 0:
            raise ConfigError(f"refine_steps = {self.refine_steps} must be at least 0.")
        if not 0 <= self.images_per_frame <= 64:
            raise ConfigError(f"images_per_frame = {self.images_per_frame} must be 1..64, or 0 for the layout's own.")

    @property
    def all_conditions(self) -> tuple[Condition, ...]:
        """Conditions of the file, or one for each channel SNR."""
        return self.conditions or tuple(Condition(f"{csnr:g} dB", self.channel, csnr) for csnr in self.csnr_db)

    @property
    def fingerprint(self) -> dict[str, object]:
        """Settings that a kept point depends on besides its own condition and method."""
        point = ("num_images", "images", "layout", "bundle", "redraw_frames", "refine_steps", "batch_size", "seed")
        return {key: getattr(self, key) for key in point}


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read an experiment from a TOML file.

    Args:
        path: the file; its keys are the fields of `Sweep`, unknown ones are errors.
        overrides: "key=value" each, the value in TOML's spelling (a bare word is taken as a string).

    Raises:
        ConfigError: the file is missing, is no TOML, or says something impossible.
    """
    content = read_document(path, what="experiment file")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override} is not KEY=VALUE.")
        try:
            content[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            content[key.strip()] = text
    values, conditions = content.get("csnr_db"), content.get("conditions")
    if isinstance(conditions, list) and isinstance(values, list) and values:
        # A condition has the file's own channel and channel SNR unless it names others.
        shared = {"channel": content.get("channel", ""), "csnr_db": values[0]}
        content["conditions"] = [{**shared, **one} if isinstance(one, dict) else one for one in conditions]
    return from_table(Sweep, content, str(path))


def held_out_images(sweep: Sweep, shape: ImageShape) -> tuple[list[str], Tensor]:
    """Return ids and images (n, C, H, W) of the experiment.

    Args:
        sweep: the experiment.
        shape: that the bundle takes.

    Raises:
        ConfigError: more images than there are, or the test split where the bundle takes other images.
        InputError: a folder whose images differ in size.
    """
    if not sweep.images and shape != FASHION_SHAPE:
        raise ConfigError(f"Bundle '{sweep.bundle}' is not for Fashion-MNIST: set images to a folder of its images.")
    if sweep.images:
        stems, images = load_image_folder(sweep.images, shape)
        if len(stems) < sweep.num_images:
            raise ConfigError(f"{sweep.images} has {len(stems)} images, num_images = {sweep.num_images} are needed.")
        ids = [image_id_from_stem(stem) for stem in stems]
        return ids[: sweep.num_images], images[: sweep.num_images]
    images, labels = load_fashion_mnist("test")
    if sweep.num_images > len(images):
        raise ConfigError(f"num_images = {sweep.num_images}, but the test split has {len(images)}.")
    picked = sample_indices(labels, sweep.num_images, torch.Generator().manual_seed(sweep.seed))
    return [f"t{index:05d}" for index in picked], images[picked]


def sweep_layout(sweep: Sweep, symbols_per_image: int | None) -> FrameLayout:
    """Return the experiment's layout, with its number of images per frame.

    Args:
        sweep: the experiment.
        symbols_per_image: of the codec; None where it differs from image to image, each of which has its own frames.

    Raises:
        ConfigError: a frame does not hold so many images.
    """
    layout = load_layout(sweep.layout)
    if not sweep.images_per_frame:
        return layout
    if symbols_per_image is None:
        raise ConfigError("images_per_frame is for codecs of a fixed rate; leave it out.")
    layout = replace(layout, image_slots=sweep.images_per_frame)
    if images_per_frame(symbols_per_image, layout) != sweep.images_per_frame:
        raise ConfigError(
            f"images_per_frame = {sweep.images_per_frame}, but a frame of layout '{layout.name}' has {layout.capacity} "
            f"cells for images of {symbols_per_image} symbols. Lower it, or choose another layout."
        )
    return layout
