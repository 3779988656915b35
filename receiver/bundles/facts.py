"""Say what a bundle holds, and check all of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from receiver.bundles.bundle import Bundle, find_bundle, load_bundle, load_denoiser, parts_of
from receiver.bundles.importing import FAMILIES, parameters, try_part
from receiver.bundles.side_models import (
    CODEBOOK_FILE,
    CONFIDENCE_FILE,
    COVARIANCE_FILE,
    MIXTURE_FILE,
    load_codebook,
    load_confidence,
    load_mixture,
)
from receiver.codecs.codec import shape_text
from receiver.codecs.published import PUBLISHED_SIDE
from receiver.codecs.side_information import VariableRateCodec
from receiver.priors.denoiser import NetworkDenoiser

#: What a bundle may hold beside codec and prior that decoding uses, by what it is called.
_OPTIONAL_FILES = {
    "codebook": CODEBOOK_FILE,
    "mixture": MIXTURE_FILE,
    "covariance": COVARIANCE_FILE,
    "confidence": CONFIDENCE_FILE,
}


def bundle_facts(name_or_path: str | Path) -> dict[str, Any]:
    """Return what a bundle holds, ready for JSON.

    Raises:
        ModelError: as `load_bundle`.
    """
    folder = find_bundle(name_or_path)
    if _has_prior_alone(folder):
        prior = load_denoiser(folder)
        return {"path": str(folder), "images": shape_text(prior.accepted_shape), "prior": _prior_facts(prior)}
    bundle = load_bundle(folder)
    codec, denoiser = bundle.codec, bundle.denoiser
    facts: dict[str, Any] = {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "images": shape_text(bundle.accepted_shape),
        "codec": {
            "network": codec.family,
            "digest": codec.digest,
            "weights": parameters(codec),
            **_rate(bundle),
            **vars(codec.config),
        },
        "besides": [name for name, file in _OPTIONAL_FILES.items() if (bundle.path / file).is_file()],
    }
    published = next((each for each in FAMILIES["codec"].values() if each.network == codec.family), None)
    if published is not None and published.conventions is not None:
        facts["conventions"] = dict(vars(published.conventions))
    if denoiser is not None:
        facts["prior"] = _prior_facts(denoiser)
    return facts


def _has_prior_alone(folder: Path) -> bool:
    """Return whether a prior was brought and no codec yet."""
    parts = parts_of(folder)
    return "prior" in parts and "codec" not in parts


def _prior_facts(denoiser: NetworkDenoiser[Any]) -> dict[str, Any]:
    return {
        "digest": denoiser.digest,
        "weights": parameters(denoiser),
        "predicts": denoiser.prediction,
        "steps": denoiser.schedule.num_steps,
        "classes": denoiser.classes,
    }


def _rate(bundle: Bundle) -> dict[str, Any]:
    """Return symbols of an image, and a source value, where every image has as many."""
    if isinstance(bundle.codec, VariableRateCodec):
        return {"symbols": "differ from image to image"}
    channels, height, width = bundle.accepted_shape
    shape = (channels, height or PUBLISHED_SIDE, width or PUBLISHED_SIDE)
    symbols = bundle.codec.for_shape(shape).num_symbols
    return {"symbols": symbols, "symbols_of": "x".join(map(str, shape)), "cbr": symbols / math.prod(shape)}


def check_bundle(name_or_path: str | Path) -> list[str]:
    """Load all that decoding uses of a bundle, and run its networks once; return the names of what was checked.

    Raises:
        ModelError: something is damaged, of another codec, or gives no numbers.
    """
    folder = find_bundle(name_or_path)
    if _has_prior_alone(folder):
        try_part(load_denoiser(folder), f"The prior of {folder}")
        return ["prior"]
    bundle = load_bundle(folder)
    checked = ["codec"]
    try_part(bundle.codec, f"The codec of {bundle.path}")
    if bundle.denoiser is not None:
        try_part(bundle.denoiser, f"The prior of {bundle.path}")
        checked.append("prior")
    if load_codebook(bundle.path, bundle.accepted_shape) is not None:
        checked.append("codebook")
    if load_confidence(bundle.path, bundle.codec) is not None:
        checked.append("confidence")
    if (bundle.path / MIXTURE_FILE).is_file() and load_mixture(bundle.path, bundle.codec) is not None:
        checked.append("mixture")
    if bundle.codec.takes_symbol_csnr:
        checked.append("covariance")
    return checked
