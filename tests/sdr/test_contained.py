"""Names out of files stay in their folder, and arrays are what their file says, before memory is taken."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdr.arrays import load_arrays
from sdr.contained import contained_path
from sdr.errors import InputError


@pytest.mark.parametrize("name", ["", "/etc/hostname", "../x", "a/../../x", "a/..", "x\0y", "x\ny", "link/x", "loop"])
def test_what_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(InputError, match=r"^run\.json names [^\n]*$"):
        contained_path(folder, name, "run.json")


def test_what_stays_inside_is_taken(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "images")
    for name in ("a.png", "images/a.png", "alias/a.png", "images/..a.png", "./a.png"):
        assert contained_path(tmp_path, name, "run.json") == tmp_path / name


ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "ids": np.array(["x", "yz"]), "n": np.array(3)}


def stored() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **ARRAYS)
    return buffer.getvalue()


def test_arrays_come_back(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(stored())
    found = load_arrays(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys() and all(np.array_equal(found[key], ARRAYS[key]) for key in ARRAYS)


@given(st.integers(0, len(stored()) - 1), st.integers(0, 255), st.booleans())
def test_damaged_arrays_are_one_line(place: int, value: int, cut: bool) -> None:
    content = bytearray(stored())
    content[place] = value
    path = Path(f"/dev/shm/damaged-{place}-{value}.npz") if Path("/dev/shm").is_dir() else Path("damaged.npz")
    path.write_bytes(content[:place] if cut else content)
    try:
        load_arrays(path)
    except InputError as error:
        assert "\n" not in str(error)
    finally:
        path.unlink()


def test_headers_that_promise_more_than_there_is(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    for content in (header.getvalue(), header.getvalue() + bytes(8)):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", content)
        with pytest.raises(InputError, match="not the array that its header promises"):
            load_arrays(tmp_path / "a.npz")
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="damaged"):
        load_arrays(tmp_path / "o.npz")
