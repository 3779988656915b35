"""The package is ours, light, and runs in the interpreter that has GNU Radio."""

import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sdr
from sdr import errors

ROOT = Path(__file__).parents[2]
MODULES = sorted(module.name for module in pkgutil.walk_packages(sdr.__path__, "sdr."))
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin")


def test_the_sdr_imported_is_ours():
    # An unrelated project on the package index is also called sdr.
    assert Path(sdr.__file__).parent == ROOT / "sdr"
    assert sdr.DISTRIBUTION == "diffcom-ota"


IMPORT_ALL = f"""
import sys
for name in {MODULES!r}:
    __import__(name)
heavy = sorted(set(sys.modules) & {{"torch", "scipy", "sigmf", "zmq", "gnuradio", "uhd", "typer", "rich"}})
print(heavy)
"""


def test_importing_pulls_in_nothing_heavy():
    ran = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


SAME_WAVEFORM = """
import hashlib, sys
import numpy as np
from sdr.framing import pack_frames
from sdr.layout import load_layout, shipped_layouts
from sdr.modem import modulate_stream
from sdr.symbols import Symbols

sha, streams = hashlib.sha256(), []
for name in shipped_layouts():
    layout = load_layout(name)
    sha.update(layout.digest.encode())
    for array in (layout.preamble_a, layout.preamble_b, layout.pilots, layout.cell_index, layout.cell_scramble):
        sha.update(array.tobytes())
    z = (1j ** np.arange(2 * 300)).reshape(2, 300).astype(np.complex64)
    frames = pack_frames(Symbols(z, "00c0ffee", ("a", "b"), (1, 8, 8), 10.0), layout)
    streams.append(modulate_stream(frames, layout))
np.save(sys.argv[1], np.concatenate(streams))
print(sha.hexdigest())
"""


@pytest.mark.skipif(SYSTEM_PYTHON is None, reason="there is no system Python to compare with")
def test_the_system_interpreter_makes_the_same_waveform(tmp_path):
    probe = [str(SYSTEM_PYTHON), "-c", "import numpy"]
    if subprocess.run(probe, capture_output=True, timeout=60).returncode:
        pytest.skip(f"{SYSTEM_PYTHON} has no NumPy")
    digests, streams = [], []
    for index, interpreter in enumerate((sys.executable, SYSTEM_PYTHON)):
        path = tmp_path / f"{index}.npy"
        command = [str(interpreter), "-c", SAME_WAVEFORM, str(path)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        digests.append(ran.stdout)
        streams.append(np.load(path))
    assert digests[0] == digests[1]
    assert np.allclose(streams[0], streams[1], atol=1e-6)


def test_every_error_is_an_ota_error():
    names = ["Input", "Layout", "Recording", "Radio", "Flowgraph", "Config", "Model"]
    for name in names:
        assert issubclass(getattr(errors, f"{name}Error"), errors.OtaError)
