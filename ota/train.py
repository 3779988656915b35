"""`ota train`: the models of a bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ota.arguments import bundle_folder, use_device, with_options
from ota.console import emit_json, note, progress_bar
from sdr.errors import ConfigError
from sdr.outputs import growing_folder

if TYPE_CHECKING:
    from lab.training.task import TrainingConfig

app = typer.Typer(
    help="""Train the models of a bundle: like fashion, on Fashion-MNIST, or like photo, on photographs of any size.

Training goes on from the checkpoint in --out unless --restart is given. The bundle folder gets the weights
(safetensors, half precision), bundle.toml, the loss curve and a record of recipe, time and quality.

\b
A whole bundle, about 50 minutes on one core:
  ota train codec   --out runs/mine
  ota train realism --out runs/mine
  ota train prior   --out runs/mine
  ota train codebook --out runs/mine
  ota train mixture --out runs/mine
  ota train confidence --out runs/mine
  ota decode runs/tx --bundle runs/mine ...

\b
One for photographs, about 2 hours on one core:
  ota train photographs --out runs/photographs
  ota train codec   --like photo --data runs/photographs --out runs/photo
  ota train realism --like photo --data runs/photographs --out runs/photo
  ota train prior   --like photo --data runs/photographs --out runs/photo
  ota train mixture --like photo --data runs/photographs --out runs/photo
  ota train covariance --like photo --data runs/photographs --out runs/photo
  ota train confidence --like photo --data runs/photographs --out runs/photo
With a GPU codec and prior take minutes: add --device cuda, and --minutes for how many.
""",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Option(help="Bundle folder to write or to go on with.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of Fashion-MNIST; default: where Debian's package puts it. Photographs: what was collected."
    ),
]
Like = Annotated[str, typer.Option(help="The shipped bundle whose kind it is: fashion, photo or photo24.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Start = Annotated[str | None, typer.Option("--from", help="Bundle (name or folder) whose model is trained further.")]
LearningRate = Annotated[float | None, typer.Option(min=1e-8, help="Peak learning rate; default: the recipe's.")]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of every part that is trained."""

    out: Out
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; default: the shipped recipe's.")] = None
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Longest training time; default: the shipped recipe's.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed; default: the shipped recipe's.")] = None
    restart: Annotated[bool, typer.Option("--restart", help="Start anew although --out holds a checkpoint.")] = False
    data: Data = None
    like: Like = "fashion"
    device: Annotated[str, typer.Option(help="Torch device to train on; on a GPU in large batches, in minutes.")] = (
        "cpu"
    )
    json_output: Json = False


@app.command("codec")
@with_options(TrainingOptions)
def codec(
    *,
    options: TrainingOptions,
    start: Start = None,
    learning_rate: LearningRate = None,
    block_symbols: int | None = typer.Option(
        None, min=1, max=384, help="Photographs: complex symbols for 16x16 pixels; default: 16 (CBR 1/48); photo24: 32."
    ),
    linear: bool = typer.Option(False, "--linear", help="Photographs: the best linear code, found in seconds."),
    decoder_only: bool = typer.Option(
        False, "--decoder-only", help="Photographs: leave the encoder, and so all symbols, as --from has it."
    ),
) -> None:
    """Train the JSCC codec (encoder and decoder), half over AWGN and half over fading, of 0 to 14 dB.

    \b
    Examples:
      ota train codec --out runs/mine
      ota train codec --out runs/further --from fashion --learning-rate 5e-4 --steps 3000
      ota train codec --out runs/quick --steps 200 --json
      ota train codec --like photo --linear --block-symbols 64 --data runs/photographs --out runs/photo12
      ota train codec --like photo24 --from photo24 --decoder-only --data runs/photographs --out runs/photo24
    """
    from lab.training import fashion as training
    from lab.training import photo as training_photo

    if _is_photo(options.like, options.data):
        architecture = training_photo.CODECS[options.like]
        if linear:
            architecture = replace(architecture, widths=(), encoder_blocks=(), decoder_blocks=(), local_wiener=False)
        if block_symbols is not None:
            architecture = replace(architecture, features=2 * block_symbols)
        trainer = partial(
            training_photo.train_codec, architecture=architecture, start=start, decoder_only=decoder_only, note=note
        )
        recipe = _for_device(options.device, training_photo.CODEC_TRAINING, training_photo.GPU_CODEC_TRAINING)
    elif linear or decoder_only or block_symbols is not None:
        raise ConfigError(
            "--linear, --decoder-only and --block-symbols are for photographs. Add --like photo, or leave them out."
        )
    else:
        trainer = partial(training.train_codec, start=start)
        recipe = _for_device(options.device, training.CODEC_TRAINING)
    _train("codec", trainer, _at_rate(recipe, learning_rate), options)


@app.command("prior")
@with_options(TrainingOptions)
def prior(*, options: TrainingOptions, start: Start = None, learning_rate: LearningRate = None) -> None:
    """Train the diffusion prior, a small U-Net.

    \b
    Examples:
      ota train prior --out runs/mine
      ota train prior --out runs/mine --minutes 60
      ota train prior --out runs/further --from fashion --learning-rate 5e-4
    """
    from lab.training import fashion as training
    from lab.training import photo as training_photo

    if _is_photo(options.like, options.data):
        trainer = partial(training_photo.train_prior, start=start)
        recipe = _for_device(options.device, training_photo.PRIOR_TRAINING, training_photo.GPU_PRIOR_TRAINING)
    else:
        trainer = partial(training.train_prior, start=start)
        recipe = _for_device(options.device, training.PRIOR_TRAINING)
    _train("prior", trainer, _at_rate(recipe, learning_rate), options)


@app.command("realism")
@with_options(TrainingOptions)
def realism(*, options: TrainingOptions) -> None:
    """Train the small classifier behind the realism distance, and take the statistics of real images.

    Photographs have no classes to tell apart: like photo, their patches' statistics are taken, nothing is trained.

    \b
    Examples:
      ota train realism --out runs/mine
    """
    from lab.training.fashion import REALISM_TRAINING, train_realism

    if _is_photo(options.like, options.data):
        from lab.training.photo import train_realism as take_statistics

        if options.steps is not None or options.minutes is not None or options.seed is not None:
            raise ConfigError("The realism of photographs is no training: leave out --steps, --minutes and --seed.")
        assert options.data is not None
        with bundle_folder(options.out):
            quality = take_statistics(options.out, data=options.data)
        _print_trained("realism", options, quality)
        return
    _train("realism", train_realism, _for_device(options.device, REALISM_TRAINING), options)


@app.command("codebook")
def codebook(
    out: Out,
    seed: int = typer.Option(0, help="Seed of the draw."),
    data: Path | None = typer.Option(
        None, help="Folder of images of the bundle's size to draw from; default: Fashion-MNIST's training split."
    ),
    json_output: Json = False,
) -> None:
    """Draw the training images that start a blind decoder.

    \b
    Examples:
      ota train codebook --out runs/mine
    """
    from lab.training.codebook import train_codebook

    with bundle_folder(out):
        entries = train_codebook(out, seed=seed, data=data)
    if json_output:
        emit_json({"part": "codebook", "out": str(out), "entries": entries})
    else:
        note(f"codebook of {entries} images in {out}")


@app.command("mixture")
def mixture(
    out: Out,
    seed: int = typer.Option(0, help="Seed of the fit."),
    data: Data = None,
    like: Like = "fashion",
    json_output: Json = False,
) -> None:
    """Fit the statistics of the codec's symbols by which a blind decoder finds the channel; needs the codec.

    \b
    Examples:
      ota train mixture --out runs/mine
      ota train mixture --like photo --data runs/photographs --out runs/photo
    """
    with bundle_folder(out):
        if _is_photo(like, data):
            from lab.training.photo import train_mixture as fit_words

            assert data is not None
            quality = fit_words(out, seed=seed, data=data)
        else:
            from lab.training.mixture import train_mixture

            quality = train_mixture(out, seed=seed, data=data)
    if json_output:
        emit_json({"part": "mixture", "out": str(out), "quality": quality})
    else:
        note(f"mixture in {out}: " + ", ".join(f"{key} {value:g}" for key, value in quality.items()))


@app.command("covariance")
def covariance(
    out: Out,
    seed: int = typer.Option(0, help="Seed of the crops."),
    data: Data = None,
    like: Like = "photo",
    json_output: Json = False,
) -> None:
    """Find how the features of a codec for photographs vary together; needs the codec, and is no training.

    With it the decoder is told the CSNR of every symbol, and replaces what weak carriers bring by what the blocks
    around tell. Codec and symbols stay as they are.

    \b
    Examples:
      ota train covariance --like photo --data runs/photographs --out runs/photo
    """
    with bundle_folder(out), progress_bar() as progress:
        if not _is_photo(like, data):
            raise ConfigError("Only codecs for photographs have covariances of blocks. Add --like photo.")
        from lab.training.photo import train_covariance

        assert data is not None
        train_covariance(out, seed=seed, data=data, progress=progress)
    if json_output:
        emit_json({"part": "covariance", "out": str(out)})
    else:
        note(f"covariance in {out}")


@app.command("confidence")
@with_options(TrainingOptions)
def confidence(*, options: TrainingOptions) -> None:
    """Train the small network that tells how wrong a decoded image is likely to be; needs the codec.

    \b
    Examples:
      ota train confidence --out runs/mine
      ota train confidence --like photo --data runs/photographs --out runs/photo
    """
    from lab.training import confidence as training_confidence
    from lab.training import photo as training_photo

    module = training_photo if _is_photo(options.like, options.data) else training_confidence
    _train("confidence", module.train_confidence, _for_device(options.device, module.CONFIDENCE_TRAINING), options)


@app.command("photographs")
def photographs(
    out: Path = typer.Option(..., help="Folder to write: train/ and test/ with a PNG for each photograph."),
    json_output: Json = False,
) -> None:
    """Collect the photographs that a bundle like photo is trained on, from the packages that have them.

    What is installed is read where it is; the rest is fetched with apt-get and pip into a temporary folder, nothing is
    installed. Files, authors and licences: lab/training/photographs.toml.

    \b
    Examples:
      ota train photographs --out runs/photographs
    """
    from lab.training.photographs import collect

    with growing_folder(out, begun=(out / "train").is_dir()), progress_bar() as progress:
        counts = collect(out, progress)
    if json_output:
        emit_json({"out": str(out), **counts})
    else:
        note(f"{counts['train']} photographs to train on and {counts['test']} to test on in {out}")


def _is_photo(like: str, data: Path | None) -> bool:
    if like == "fashion":
        return False
    from lab.training.photo import CODECS

    if like not in CODECS:
        raise ConfigError(f"--like {like!r} is none of fashion, {' and '.join(CODECS)}.")
    if data is None:
        raise ConfigError("Photographs need --data: the folder that `ota train photographs` wrote.")
    return True


def _for_device(device: str, recipe: TrainingConfig, gpu_recipe: TrainingConfig | None = None) -> TrainingConfig:
    """Return the recipe for a device, which must be there."""
    use_device(device)
    if device != "cpu" and gpu_recipe is not None:
        recipe = gpu_recipe
    return replace(recipe, device=device)


def _at_rate(recipe: TrainingConfig, learning_rate: float | None) -> TrainingConfig:
    return recipe if learning_rate is None else replace(recipe, learning_rate=learning_rate)


def _train(
    part: str, trainer: Callable[..., dict[str, float]], recipe: TrainingConfig, options: TrainingOptions
) -> None:
    given = {"steps": options.steps, "minutes": options.minutes, "seed": options.seed}
    recipe = replace(recipe, **{key: value for key, value in given.items() if value is not None})
    # Standard output is for the result.
    with bundle_folder(options.out), redirect_stdout(sys.stderr), progress_bar() as progress:
        quality = trainer(options.out, recipe, resume=not options.restart, data=options.data, progress=progress)
    _print_trained(part, options, quality)


def _print_trained(part: str, options: TrainingOptions, quality: dict[str, float]) -> None:
    if options.json_output:
        emit_json({"part": part, "out": str(options.out), "quality": quality})
    else:
        note(f"{part} trained into {options.out}: " + ", ".join(f"{key} {value:g}" for key, value in quality.items()))
