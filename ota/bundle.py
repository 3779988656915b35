"""`ota bundle`: make a bundle from published checkpoints, look into one, check one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ota.arguments import bundle_folder
from ota.console import emit_json, note
from sdr.errors import ConfigError

if TYPE_CHECKING:
    from receiver.bundles.importing import ImportedPart

app = typer.Typer(
    help="Make a bundle from published checkpoints, look into one, check one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("import")
def import_part(
    out: Path = typer.Option(..., help="Bundle folder to write into; it may have the other part already."),
    family: str = typer.Option(
        ...,
        help="What was published: adm-ffhq, adm-imagenet or adm-imagenet-class (--prior); adjscc, pdjscc, swinjscc, "
        "witt, ntscc-plus or hf (--codec).",
    ),
    prior: Path | None = typer.Option(None, help="Checkpoint of a diffusion prior, such as ffhq_10m.pt."),
    codec: Path | None = typer.Option(None, help="Checkpoint of a codec, or of family hf the folder of one."),
    image_size: str | None = typer.Option(
        None, help="HEIGHTxWIDTH of the images, of families of one size; default: 256x256."
    ),
    size: str | None = typer.Option(None, help="Depth of SwinJSCC: small, base or large; default: as the file has it."),
    channels: int | None = typer.Option(
        None,
        "--C",
        min=1,
        help="Features sent at each position; default: the file's, else 96 (SwinJSCC).",
    ),
    variant: str | None = typer.Option(
        None, help="Of WITT, and of SwinJSCC without rate adaptation: none or snr, which the file does not tell."
    ),
    eta: float | None = typer.Option(None, help="Of NTSCC+: features sent for each bit, 0.15 to 0.3; default: 0.2."),
    level: float | None = typer.Option(None, help="Of the compatible NTSCC+: quality, 0 to 99; default: 50."),
    images: Path | None = typer.Option(
        None,
        help="Photographs to measure the features' power on (SwinJSCC of fixed rate, WITT); default: shipped ones.",
    ),
    force: bool = typer.Option(False, "--force", help="Replace a part that the bundle has already."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Make a part of a bundle from a published checkpoint.

    Every name and shape is checked, and the network is run once, before anything is written. Nothing that is in a
    file is run. docs/models.md says where the checkpoints are from.

    \b
    Examples:
      ota bundle import --out runs/ffhq --prior ffhq_10m.pt --family adm-ffhq
      ota bundle import --out runs/ffhq --codec "ADJSCC_C=2.pth.tar" --family adjscc
      ota bundle import --out runs/swin --codec SwinJSCC_w_SAandRA.model --family swinjscc --size base --C 96
    """
    from receiver.bundles.importing import read_published, write_published
    from receiver.codecs.published import ImportOptions

    if (prior is None) == (codec is None):
        raise ConfigError("One of --prior and --codec must be given; for both, import twice into one --out.")
    part, source = ("prior", prior) if prior is not None else ("codec", codec)
    assert source is not None
    options = ImportOptions(_sides(image_size), size, channels, variant, eta, level)
    with bundle_folder(out):
        found = read_published(part, family, source, options, images)
        write_published(out, found, force)
    facts = _facts_of_import(found)
    if json_output:
        emit_json({"out": str(out), **facts})
    else:
        note(f"{part} of {source} in {out}: {facts['title']}, {facts['parameters']:,} weights")


def _sides(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"--image-size {text!r} must be HEIGHTxWIDTH in pixels, as 256x256.")
    return int(height), int(width)


def _facts_of_import(found: ImportedPart) -> dict[str, Any]:
    from receiver.bundles.importing import parameters

    return {
        "part": found.part,
        "family": found.family.name,
        "title": found.family.title,
        "source": str(found.source),
        "parameters": parameters(found.model),
        "digest": found.model.digest,
        "configuration": vars(found.config),
    }


@app.command("show")
def show(
    bundle: str = typer.Argument(help="Model bundle: a shipped name or a folder."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Show what a bundle holds, what images it takes, and how its codec uses the channel."""
    from receiver.bundles.facts import bundle_facts

    facts = bundle_facts(bundle)
    if json_output:
        emit_json(facts)
        return
    # No table: values are too long for its columns.
    rows = _flat(facts)
    longest = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{longest}}  {value}" for name, value in rows))


def _flat(facts: dict[str, Any], before: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in facts.items():
        rows += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return rows


@app.command("check")
def check(
    bundle: str = typer.Argument(help="Model bundle: a shipped name or a folder."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Load everything that a bundle holds and run its networks once. Exit status 2 where something is wrong."""
    from receiver.bundles.facts import check_bundle

    checked = check_bundle(bundle)
    if json_output:
        emit_json({"bundle": bundle, "checked": checked})
    else:
        fit = "load, fit each other and give" if len(checked) > 1 else "loads and gives"
        note(f"{bundle}: {', '.join(checked)} {fit} numbers")
