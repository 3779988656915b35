"""What holds for the repository as a whole."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import calibration
import flowgraphs
import ota
import receiver
import sdr
from lab.experiments.campaign import load_campaign
from lab.experiments.plan import load_sweep
from receiver.bundles.bundle import MODELS_DIR, load_bundle
from sdr.layout import load_layout, shipped_layouts

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.toml"))
BUNDLES = sorted(path.parent for path in MODELS_DIR.glob("*/bundle.toml"))
WEIGHTS_LIMIT_BYTES = 40_000_000

#: Traces of how and where the text was written; split up so that this file does not hold them itself.
FORBIDDEN = ["/wo" + "rk/", "/tmp/" + "brief", "TO" + "DO", "FIX" + "ME", "py" + "pi.org", "python" + "hosted"]


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("package", [sdr, flowgraphs, receiver, calibration, ota], ids=lambda package: package.__name__)
def test_the_imported_packages_are_ours(package):
    assert Path(package.__file__).resolve().parent == ROOT / package.__name__


def test_import_rules():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("argv", [["--help"], ["doctor", "--json"]])
def test_the_command_line_starts_without_what_is_heavy(argv):
    code = (
        "import sys; from ota.__main__ import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'scipy', 'matplotlib', 'pyarrow', 'gnuradio'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_trace_of_how_the_text_was_written():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if word in text]
    assert not found


def test_no_test_file_is_empty():
    named = [path for path in tracked_files() if path.name.startswith("test_") and path.suffix == ".py"]
    assert len(named) > 100 and not [path for path in named if "def test_" not in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", shipped_layouts())
def test_every_shipped_layout_loads(name):
    assert load_layout(name).name == name


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_every_shipped_bundle_loads_and_is_small(folder):
    bundle = load_bundle(folder)
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) < WEIGHTS_LIMIT_BYTES
    assert (folder / "README.md").is_file(), "a bundle needs a model card"
    assert bundle.samples.is_dir()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_is_large_enough(path):
    """Sweeps have methods, campaigns of captures have repetitions; each loads with its own verb's loader."""
    if "methods" in tomllib.loads(path.read_text(encoding="utf-8")):
        sweep = load_sweep(path)
        # A folder of images is sent as a whole.
        least = len(list((ROOT / sweep.images).iterdir())) if sweep.images else 256
        assert sweep.name == path.stem and sweep.num_images >= least
    else:
        assert load_campaign(path).name == path.stem


def test_package_data_is_declared():
    """Whatever lies beside the modules and is no Python must be installed with them."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("sdr", "flowgraphs", "receiver", "calibration", "ota"):
        declared = {path for pattern in data.get(package, []) for path in (ROOT / package).glob(pattern)}
        others = {p for p in tracked_files() if (ROOT / package) in p.parents and p.suffix != ".py"}
        assert others <= declared, f"{package}: {sorted(str(p.relative_to(ROOT)) for p in others - declared)}"


def test_documents_point_at_files_that_exist():
    broken = []
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.name}: {target}")
    assert not broken
