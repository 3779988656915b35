"""`ota train`: the models of a bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from ota.console import emit_json, note, progress_bar
from sdr.errors import ConfigError

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
  ota train confidence --like photo --data runs/photographs --out runs/photo
""",
    rich_markup_mode=None,
    no_args_is_help=True,
)

_OUT = typer.Option(..., help="Bundle folder to write or to go on with.")
_STEPS = typer.Option(None, min=1, help="Optimiser steps; default: the shipped recipe's.")
_MINUTES = typer.Option(None, min=0.01, help="Longest training time; default: the shipped recipe's.")
_SEED = typer.Option(None, help="Seed; default: the shipped recipe's.")
_RESTART = typer.Option(False, "--restart", help="Start anew although --out holds a checkpoint.")
_DATA = typer.Option(
    None, help="Folder of Fashion-MNIST; default: where Debian's package puts it. Photographs: what was collected."
)
_LIKE = typer.Option("fashion", help="The shipped bundle whose kind it is: fashion, photo or photo24.")
_FROM = typer.Option(None, "--from", help="Bundle (name or folder) whose model is trained further.")
_LEARNING_RATE = typer.Option(None, min=1e-8, help="Peak learning rate; default: the recipe's.")
_JSON = typer.Option(False, "--json", help="Print one JSON object on standard output.")


@app.command("codec")
def codec(
    out: Path = _OUT,
    steps: int | None = _STEPS,
    minutes: float | None = _MINUTES,
    seed: int | None = _SEED,
    start: str | None = _FROM,
    learning_rate: float | None = _LEARNING_RATE,
    block_symbols: int | None = typer.Option(
        None, min=1, max=384, help="Photographs: complex symbols for 16x16 pixels; default: 16 (CBR 1/48); photo24: 32."
    ),
    linear: bool = typer.Option(False, "--linear", help="Photographs: the best linear code, found in seconds."),
    restart: bool = _RESTART,
    data: Path | None = _DATA,
    like: str = _LIKE,
    json_output: bool = _JSON,
) -> None:
    """Train the JSCC codec (encoder and decoder), half over AWGN and half over fading, of 0 to 14 dB.

    \b
    Examples:
      ota train codec --out runs/mine
      ota train codec --out runs/further --from fashion --learning-rate 5e-4 --steps 3000
      ota train codec --out runs/quick --steps 200 --json
      ota train codec --like photo --linear --block-symbols 64 --data runs/photographs --out runs/photo12
    """
    from lab.training import fashion as training
    from lab.training import photo as training_photo

    if _is_photo(like, data):
        architecture = training_photo.CODECS[like]
        if linear:
            architecture = replace(architecture, widths=(), encoder_blocks=(), decoder_blocks=())
        if block_symbols is not None:
            architecture = replace(architecture, features=2 * block_symbols)
        trainer = partial(training_photo.train_codec, architecture=architecture, start=start)
        recipe = training_photo.CODEC_TRAINING
    elif linear or block_symbols is not None:
        raise ConfigError("--linear and --block-symbols are for photographs. Add --like photo, or leave them out.")
    else:
        trainer, recipe = partial(training.train_codec, start=start), training.CODEC_TRAINING
    _train("codec", trainer, _at_rate(recipe, learning_rate), out, steps, minutes, seed, restart, data, json_output)


@app.command("prior")
def prior(
    out: Path = _OUT,
    steps: int | None = _STEPS,
    minutes: float | None = _MINUTES,
    seed: int | None = _SEED,
    start: str | None = _FROM,
    learning_rate: float | None = _LEARNING_RATE,
    restart: bool = _RESTART,
    data: Path | None = _DATA,
    like: str = _LIKE,
    json_output: bool = _JSON,
) -> None:
    """Train the diffusion prior, a small U-Net.

    \b
    Examples:
      ota train prior --out runs/mine
      ota train prior --out runs/mine --minutes 60
      ota train prior --out runs/further --from fashion --learning-rate 5e-4
    """
    from lab.training import fashion as training
    from lab.training import photo as training_photo

    module = training_photo if _is_photo(like, data) else training
    recipe = _at_rate(module.PRIOR_TRAINING, learning_rate)
    trainer = partial(module.train_prior, start=start)
    _train("prior", trainer, recipe, out, steps, minutes, seed, restart, data, json_output)


@app.command("realism")
def realism(
    out: Path = _OUT,
    steps: int | None = _STEPS,
    minutes: float | None = _MINUTES,
    seed: int | None = _SEED,
    restart: bool = _RESTART,
    data: Path | None = _DATA,
    like: str = _LIKE,
    json_output: bool = _JSON,
) -> None:
    """Train the small classifier behind the realism distance, and take the statistics of real images.

    Photographs have no classes to tell apart: like photo, their patches' statistics are taken, nothing is trained.

    \b
    Examples:
      ota train realism --out runs/mine
    """
    from lab.training.fashion import REALISM_TRAINING, train_realism

    if _is_photo(like, data):
        from lab.training.photo import train_realism as take_statistics

        if steps is not None or minutes is not None or seed is not None:
            raise ConfigError("The realism of photographs is no training: leave out --steps, --minutes and --seed.")
        assert data is not None
        _tell("realism", out, take_statistics(out, data=data), json_output)
        return
    _train("realism", train_realism, REALISM_TRAINING, out, steps, minutes, seed, restart, data, json_output)


@app.command("codebook")
def codebook(
    out: Path = _OUT, seed: int = typer.Option(0, help="Seed of the draw."), json_output: bool = _JSON
) -> None:
    """Draw the training images that start a blind decoder.

    \b
    Examples:
      ota train codebook --out runs/mine
    """
    from lab.training.codebook import train_codebook

    entries = train_codebook(out, seed=seed)
    if json_output:
        emit_json({"part": "codebook", "out": str(out), "entries": entries})
    else:
        note(f"codebook of {entries} images in {out}")


@app.command("mixture")
def mixture(
    out: Path = _OUT,
    seed: int = typer.Option(0, help="Seed of the fit."),
    data: Path | None = _DATA,
    like: str = _LIKE,
    json_output: bool = _JSON,
) -> None:
    """Fit the statistics of the codec's symbols by which a blind decoder finds the channel; needs the codec.

    \b
    Examples:
      ota train mixture --out runs/mine
      ota train mixture --like photo --data runs/photographs --out runs/photo
    """
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


@app.command("confidence")
def confidence(
    out: Path = _OUT,
    steps: int | None = _STEPS,
    minutes: float | None = _MINUTES,
    seed: int | None = _SEED,
    restart: bool = _RESTART,
    data: Path | None = _DATA,
    like: str = _LIKE,
    json_output: bool = _JSON,
) -> None:
    """Train the small network that tells how wrong a decoded image is likely to be; needs the codec.

    \b
    Examples:
      ota train confidence --out runs/mine
      ota train confidence --like photo --data runs/photographs --out runs/photo
    """
    from lab.training import confidence as training_confidence
    from lab.training import photo as training_photo

    module = training_photo if _is_photo(like, data) else training_confidence
    trainer, recipe = module.train_confidence, module.CONFIDENCE_TRAINING
    _train("confidence", trainer, recipe, out, steps, minutes, seed, restart, data, json_output)


@app.command("photographs")
def photographs(
    out: Path = typer.Option(..., help="Folder to write: train/ and test/ with a PNG for each photograph."),
    json_output: bool = _JSON,
) -> None:
    """Collect the photographs that a bundle like photo is trained on, from the packages that have them.

    What is installed is read where it is; the rest is fetched with apt-get and pip into a temporary folder, nothing is
    installed. Files, authors and licences: lab/training/photographs.toml.

    \b
    Examples:
      ota train photographs --out runs/photographs
    """
    from lab.training.photographs import collect

    with progress_bar() as progress:
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


def _at_rate(recipe: Any, learning_rate: float | None) -> Any:
    return recipe if learning_rate is None else replace(recipe, learning_rate=learning_rate)


def _train(
    part: str,
    trainer: Callable[..., dict[str, float]],
    recipe: Any,
    out: Path,
    steps: int | None,
    minutes: float | None,
    seed: int | None,
    restart: bool,
    data: Path | None,
    json_output: bool,
) -> None:
    given = {"steps": steps, "minutes": minutes, "seed": seed}
    recipe = replace(recipe, **{key: value for key, value in given.items() if value is not None})
    with redirect_stdout(sys.stderr), progress_bar() as progress:  # standard output is for the result
        quality = trainer(out, recipe, resume=not restart, data=data, progress=progress)
    _tell(part, out, quality, json_output)


def _tell(part: str, out: Path, quality: dict[str, float], json_output: bool) -> None:
    if json_output:
        emit_json({"part": part, "out": str(out), "quality": quality})
    else:
        note(f"{part} trained into {out}: " + ", ".join(f"{key} {value:g}" for key, value in quality.items()))
