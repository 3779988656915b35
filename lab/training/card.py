"""Record what training made of a part, and write the model card of its bundle."""

from __future__ import annotations

import json
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from lab.training.channel import FADING_TAPS
from lab.training.task import State, TrainingConfig
from receiver.codecs.codec import CSNR_RANGE_DB
from sdr.files import write_text


def write_facts(out: Path, name: str, config: TrainingConfig, state: State, quality: Mapping[str, float]) -> None:
    """Record how a part was trained and its quality, and write the model card anew.

    Args:
        out: bundle folder.
        name: of the part.
        config: the recipe.
        state: of the finished run.
        quality: by what was measured.
    """
    facts = {
        "recipe": asdict(config),
        "steps": state.step,
        "seconds": round(state.seconds),
        "device": f"{_device(config)}, torch {torch.__version__}",
        "parameters": sum(parameter.numel() for parameter in state.ema.parameters()),
        "quality": dict(quality),
    }
    _write_record(out, name, facts)


def _device(config: TrainingConfig) -> str:
    if torch.device(config.device).type == "cuda":
        return torch.cuda.get_device_name(config.device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def write_untrained(out: Path, name: str, parameters: int, quality: Mapping[str, float]) -> None:
    """Record the quality of a part that was found in closed form, and write the model card anew.

    Args:
        out: bundle folder.
        name: of the part.
        parameters: how many it has.
        quality: by what was measured.
    """
    _write_record(out, name, {"parameters": parameters, "quality": dict(quality)})


def _write_record(out: Path, name: str, facts: Mapping[str, object]) -> None:
    write_text(out / f"{name}.json", json.dumps(facts, indent=2) + "\n")
    write_card(out)


_CARD_INTRO = """# Model card of the bundle `{name}`

Trained with `ota train codec|prior|realism` on the 60000 training images of Fashion-MNIST (Zalando Research, MIT
licence; Debian package `dataset-fashion-mnist`), padded with black from 28x28 to 32x32 and scaled to [0, 1], without
augmentation. Quality is measured on the 10000 test images, which no training has seen; the images in `samples/` are of
those. Weights are float16 safetensors, exponentially averaged; architectures are in `bundle.toml`, loss curves in the
`.csv` and `.png` files. One training seed each. Made to show and test the link on 32x32 grey images of clothing; not
meant for other images. For the start of a blind decoder `codebook.safetensors` holds some training images and
`mixture.safetensors` the statistics of the codec's symbols (`ota train codebook|mixture`);
`confidence.safetensors` estimates how wrong a decoded image is (`ota train confidence`).
"""

_CARD_PARTS = {
    "codec": "ADJSCC with SNR attention, 64 complex symbols per image, trained end to end, half on AWGN and half over "
    f"block fading ({FADING_TAPS} Rayleigh taps known to the receiver, MMSE), with the CSNR uniform over "
    f"{CSNR_RANGE_DB[0]:g} to {CSNR_RANGE_DB[1]:g} dB. PSNR is the mean over the test split.",
    "prior": "Diffusion prior: the ADM U-Net on 2x2-folded pixels, 1000 steps of the linear schedule. The loss is over "
    "the test split, the one-shot PSNR over its first 1000 images.",
    "realism": "A classifier whose second layer gives the features of the realism distance, and the statistics of the "
    "training images. Distances are per dimension, 0 is best.",
    "confidence": "A network that estimates the log squared error of a decoded image from the image, its residual, the "
    "CSNR and how far the symbols are hidden by noise. Trained on what the codec makes of training images over "
    "fading, a quarter of them with taps that fit another image. Measured on test images sent likewise.",
}


_PHOTO_INTRO = """# Model card of the bundle `{name}`

Made with `ota train codec|prior|realism|mixture|confidence --like photo` from the training photographs listed in
`lab/training/photographs.toml` (Debian packages of wallpapers, puzzles, animals and monuments, and scikit-image's
samples; authors and licences stand there, those of the samples too). Measured on the test photographs of that list,
which no training has seen: each whole, shrunk to 256 pixels on its shorter side, the middle square; those are also in
`samples/` (JPEG). Weights are float16 safetensors, architectures are in `bundle.toml`. Takes colour images of any size
from 16x16 pixels on.
"""

_PHOTO_PARTS = {
    "codec": "Local codec, SNR-adaptive: each 16x16 pixels become half as many complex symbols as bundle.toml gives "
    "features (32: CBR 1/48, 64: 1/24). Where it has no levels it is the best linear code for the training "
    "photographs, found in closed form: principal components, and the regression of a block's pixels on what is "
    "received of it and its neighbours. Levels are trained from there on crops, half on AWGN and half over fading, at "
    f"{CSNR_RANGE_DB[0]:g} to {CSNR_RANGE_DB[1]:g} dB. PSNR is the mean over the test photographs, on AWGN where "
    "nothing else is said. Where there is `covariance.safetensors` (`ota train covariance`: how the features of blocks "
    "up to two apart vary together, of training photographs, in closed form), the decoder is told the CSNR of every "
    "symbol.",
    "prior": "Diffusion prior: a local convolutional U-Net that predicts velocity, 1000 steps of the linear schedule. "
    "The one-shot PSNR is the mean over the test photographs.",
    "realism": "Statistics of 8x8 patches of the training photographs, no network. Distances are per dimension, 0 is "
    "best.",
    "confidence": _CARD_PARTS["confidence"] + " Images here are crops of 128x128 pixels of photographs.",
}


def write_card(out: str | Path) -> None:
    """Write README.md, the model card, from the records of finished trainings.

    A `note` added to a record by hand is shown too.
    """
    out = Path(out)
    described = tomllib.loads((out / "bundle.toml").read_text(encoding="utf-8"))
    local = any(section.get("network") == "local" for section in described.values())
    intro, parts = (_PHOTO_INTRO, _PHOTO_PARTS) if local else (_CARD_INTRO, _CARD_PARTS)
    text = [intro.format(name=out.resolve().name)]
    for part, about in parts.items():
        path = out / f"{part}.json"
        if not path.is_file():
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        size = (out / f"{part}.safetensors").stat().st_size
        made = f"{facts['parameters']:,} parameters, {size / 1e6:.1f} MB."
        if "recipe" in facts:
            recipe = facts["recipe"]
            made += (
                f" {facts['steps']} steps of {recipe['batch']} images in {facts['seconds'] / 60:.1f} min on "
                f"{facts['device']}; AdamW, peak learning rate {recipe['learning_rate']:g}, cosine decay, "
                f"EMA {recipe['ema_decay']:g}, "
                f"{'bfloat16 autocast' if recipe['bf16'] else 'float32'}, seed {recipe['seed']}."
            )
        text.append(f"## {part}\n\n{about}\n\n{made}\n")
        if "note" in facts:
            text.append(f"{facts['note']}\n")
        rows = "\n".join(f"| {key} | {value:g} |" for key, value in facts["quality"].items())
        text.append(f"| Measured | Value |\n|---|---|\n{rows}\n")
    write_text(out / "README.md", "\n".join(text))
