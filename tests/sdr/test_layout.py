"""Layouts: shipped ones are consistent, derived arrays keep their promises, foreign files can't hurt."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.documents import MAX_DOCUMENT_BYTES
from sdr.errors import LayoutError
from sdr.layout import LAYOUTS_DIR, FrameLayout, layout_from_document, load_layout, save_layout, shipped_layouts
from tests.sdr.layouts import SMALL

SHIPPED = shipped_layouts()

# SHA-256 of each sequence as little-endian bytes. They have to be the same in every interpreter and NumPy version:
# a transmitter under NumPy 1.24 talks to a receiver under NumPy 2. A change of any of them is a new waveform.
SEQUENCES = (
    "preamble_a",
    "preamble_b",
    "pilots",
    "tracking_symbols",
    "interleaver",
    "scrambler",
    "header_cell_bits",
    "header_scrambler",
)
SEQUENCE_DIGESTS = {
    "air": ("82b6e4bb", "2d2ccde4ca643c49"),
    "blind": ("1908e7da", "15732fdfe1349574"),
    "paper": ("30023612", "0109ba5a15596094"),
    "photo": ("3f922737", "752421e3cedd0edd"),
    "photo-blind": ("231b7f2c", "6749a3ae1de8bf2f"),
    "small": ("5b12891d", "c397277c3ee0b97e"),
}


def sequences_digest(layout: FrameLayout) -> str:
    """One digest over all sequences of a layout."""
    sha = hashlib.sha256()
    for name in SEQUENCES:
        array = getattr(layout, name)
        sha.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()[:16]


def document_of(layout: FrameLayout) -> dict:
    document = dataclasses.asdict(layout)
    document["active"], document["tracking"] = list(layout.active), list(layout.tracking)
    return {key: value for key, value in document.items() if value is not None}


@pytest.mark.parametrize("name", [*SHIPPED, "small"])
def test_sequences_and_digest_never_change(name):
    layout = SMALL if name == "small" else load_layout(name)
    assert (layout.digest, sequences_digest(layout)) == SEQUENCE_DIGESTS[name]


def test_what_the_shipped_layouts_are():
    assert SHIPPED == ("air", "blind", "paper", "photo", "photo-blind")
    paper, air, blind = (load_layout(name) for name in ("paper", "air", "blind"))
    photo, without_pilot = load_layout("photo"), load_layout("photo-blind")
    assert (paper.fft_size, paper.num_active, paper.cp_samples, paper.pilot_symbols) == (256, 256, 10, 1)
    assert paper.active == tuple(range(-128, 128))
    assert 0 not in air.active and max(air.active) <= 100 and air.cp_samples == 32
    assert blind.pilot_symbols == 0 and blind.pilots.shape == (0, 256)
    # One image of 256x256 pixels at 16 symbols for every 16x16 of them.
    assert photo.capacity == without_pilot.capacity == 4096
    assert (photo.pilot_symbols, without_pilot.pilot_symbols) == (1, 0)
    assert len({layout.digest for layout in (paper, air, blind, photo, without_pilot)}) == 5


def test_repeated_pilots_are_the_last_of_so_many_data_symbols():
    assert PILOTS.pilot_rows.tolist() == [2, 5] and PILOTS.payload_rows.tolist() == [0, 1, 3, 4, 6]
    assert PILOTS.repeated_pilots.shape == (2, 48) and np.allclose(np.abs(PILOTS.repeated_pilots), 1)
    assert SMALL.pilot_rows.size == 0 and SMALL.repeated_pilots.size == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_file_name_is_layout_name(name):
    assert load_layout(name).name == name
    assert load_layout(LAYOUTS_DIR / f"{name}.toml") == load_layout(name)


PILOTS = dataclasses.replace(SMALL, name="pilots", data_symbols=7, pilot_every=3)


@pytest.mark.parametrize("layout", [*map(load_layout, SHIPPED), SMALL, PILOTS], ids=lambda layout: layout.name)
class TestDerived:
    def test_sizes(self, layout):
        pilots = 0 if layout.pilot_every is None else layout.data_symbols // layout.pilot_every
        assert layout.capacity == (layout.data_symbols - pilots) * (layout.num_active - len(layout.tracking))
        assert layout.first_data_symbol + layout.data_symbols == layout.num_symbols
        assert layout.frame_samples == layout.num_symbols * layout.symbol_samples + layout.gap_samples

    def test_unit_mean_power_per_active_carrier(self, layout):
        rows = np.concatenate([layout.preamble_a[None], layout.preamble_b[None], layout.pilots])
        assert np.allclose((np.abs(rows) ** 2).sum(axis=1) / layout.num_active, 1.0, atol=1e-5)

    def test_null_carriers_are_empty(self, layout):
        null = np.setdiff1d(np.arange(layout.fft_size), layout.active_bins)
        rows = np.concatenate([layout.preamble_a[None], layout.preamble_b[None], layout.pilots])
        assert not rows[:, null].any()

    def test_preamble_a_has_two_equal_halves(self, layout):
        time = np.fft.ifft(layout.preamble_a, norm="ortho")
        half = layout.fft_size // 2
        assert np.allclose(time[:half], time[half:], atol=1e-6)
        assert not layout.preamble_a[1::2].any()

    def test_interleaver_is_a_permutation(self, layout):
        assert np.array_equal(np.sort(layout.interleaver), np.arange(layout.capacity))

    def test_cells_are_distinct_data_cells(self, layout):
        assert np.unique(layout.cell_index).size == layout.capacity
        assert set(layout.cell_index % layout.fft_size) == set(layout.data_bins)

    def test_cells_count_symbol_by_symbol_over_ascending_carriers(self, layout):
        carriers = [carrier for carrier in layout.active if carrier not in layout.tracking]
        for element in (0, layout.capacity // 2, layout.capacity - 1):
            symbol, column = divmod(int(layout.interleaver[element]), len(carriers))
            if layout.pilot_every is not None:
                symbol += symbol // (layout.pilot_every - 1)
            expected = symbol * layout.fft_size + carriers[column] % layout.fft_size
            assert layout.cell_index[element] == expected
            assert layout.cell_scramble[element] == layout.scrambler[layout.interleaver[element]]

    def test_unit_modulus(self, layout):
        for array in (layout.scrambler, layout.cell_scramble, layout.header_scrambler, layout.tracking_symbols):
            assert np.allclose(np.abs(array), 1.0, atol=1e-6)

    def test_every_header_bit_is_sent_about_equally_often(self, layout):
        counts = np.bincount(layout.header_cell_bits, minlength=layout.header_coded_bits)
        assert counts.min() >= 1 and counts.max() - counts.min() <= 1

    def test_arrays_are_read_only_and_cached(self, layout):
        assert layout.interleaver is layout.interleaver
        with pytest.raises(ValueError, match="read-only"):
            layout.pilots.reshape(-1)[:1] = 0

    def test_sequences_differ_from_each_other(self, layout):
        assert not np.array_equal(layout.preamble_b[layout.active_bins], layout.scrambler[: layout.num_active])

    def test_save_and_load(self, layout, tmp_path):
        path = save_layout(layout, tmp_path / "deep" / "layout.json")
        assert load_layout(path) == layout
        assert [file.name for file in path.parent.iterdir()] == ["layout.json"]


def test_digest_follows_every_field_but_the_name():
    changes = dict(
        fft_size=128,
        cp_samples=15,
        rate_sps=2e6,
        active=SMALL.active[1:],
        data_symbols=5,
        pilot_symbols=1,
        header_symbols=15,
        gap_samples=11,
        seed=8,
        backoff_db=13.0,
        clip_ratio=2.0,
        tracking=(-21,),
        pilot_every=2,
    )
    changed = {field: dataclasses.replace(SMALL, **{field: value}).digest for field, value in changes.items()}
    changed["image_slots"] = dataclasses.replace(SMALL, image_slots=2, header_symbols=40).digest
    assert set(changed) == {field.name for field in dataclasses.fields(FrameLayout)} - {"name"}
    assert len({*changed.values(), SMALL.digest}) == len(changed) + 1
    assert dataclasses.replace(SMALL, name="other").digest == SMALL.digest


def test_int_and_float_of_a_file_make_the_same_layout():
    assert dataclasses.replace(SMALL, rate_sps=1000000).digest == SMALL.digest
    assert dataclasses.replace(SMALL, active=tuple(reversed(SMALL.active))) == SMALL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fft_size": 100}, "power of two"),
        ({"fft_size": 8}, "16..65536"),
        ({"fft_size": 1 << 40}, "16..65536"),
        ({"fft_size": 64.0}, "whole number"),
        ({"fft_size": True}, "whole number"),
        ({"cp_samples": 64}, "less than fft_size"),
        ({"cp_samples": -1}, "outside"),
        ({"rate_sps": 0}, "outside"),
        ({"rate_sps": float("nan")}, "outside"),
        ({"rate_sps": float("inf")}, "outside"),
        ({"rate_sps": 10**400}, "outside"),
        ({"rate_sps": "1e6"}, "number"),
        ({"active": [1, 2, 2, 4]}, "twice"),
        ({"active": [32, 2, 4]}, "outside -32..31"),
        ({"active": [1.0, 2]}, "needed a carrier"),
        ({"active": [1, 3, 5], "tracking": []}, "even index"),
        ({"active": "all"}, "list"),
        ({"tracking": [0]}, "not among the active"),
        ({"tracking": list(SMALL.active)}, "none for data"),
        ({"data_symbols": 0}, "outside"),
        ({"pilot_every": 1}, "outside 2..4"),
        ({"pilot_every": 5}, "outside 2..4"),
        ({"pilot_every": 2.0}, "whole number"),
        ({"data_symbols": 10**9}, "outside"),
        ({"header_symbols": 13}, "raise it to 14"),
        ({"image_slots": 65}, "outside"),
        ({"gap_samples": -5}, "outside"),
        ({"seed": -1}, "outside"),
        ({"seed": 2**64}, "outside"),
        ({"backoff_db": -1}, "outside"),
        ({"clip_ratio": 0}, "outside"),
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"fft_sise": 64}, "did you mean 'fft_size'"),
    ],
)
def test_wrong_fields_are_named(change, words):
    with pytest.raises(LayoutError, match=words) as caught:
        layout_from_document({**document_of(SMALL), **change}, "file.json")
    assert str(caught.value).startswith("file.json: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_huge_frames_are_refused_before_they_are_built():
    document = {**document_of(SMALL), "fft_size": 65536, "data_symbols": 4096}
    with pytest.raises(LayoutError, match="exceeds"):
        layout_from_document(document)


@pytest.mark.parametrize("ranges", [[[-(10**9), 10**9]], [[3, 1]], [[1, 2, 3]], [["1", 2]], [[0, 40000]] * 3, [None]])
def test_hostile_ranges(ranges):
    with pytest.raises(LayoutError, match="active"):
        layout_from_document({**document_of(SMALL), "active": ranges})


def test_missing_field():
    document = document_of(SMALL)
    del document["seed"]
    with pytest.raises(LayoutError, match="seed is missing"):
        layout_from_document(document)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from([field.name for field in dataclasses.fields(FrameLayout)]), value=JSON_VALUES)
def test_any_value_makes_a_layout_or_a_layout_error(field, value):
    try:
        layout = layout_from_document({**document_of(SMALL), field: value})
    except LayoutError as error:
        assert "\n" not in str(error)
    else:
        assert layout.capacity >= 1


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a.toml", b"name = ", "not valid TOML"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"[1, 2]", "table of fields"),
        ("a.json", b"[" * 100_000, "not valid JSON"),
        ("a.toml", b"\xff\xfe", "not valid TOML"),
        ("a.json", b" " * (MAX_DOCUMENT_BYTES + 1), "larger than"),
        ("a.json", b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_broken_files(tmp_path, file, content, words):
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(LayoutError, match=words) as caught:
        load_layout(path)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_paths(tmp_path):
    with pytest.raises(LayoutError, match="did you mean 'paper'"):
        load_layout("papre")
    with pytest.raises(LayoutError, match="can't be read"):
        load_layout(tmp_path / "none.toml")
    with pytest.raises(LayoutError, match=r"\.json"):
        save_layout(SMALL, tmp_path / "layout.toml")


def test_toml_and_json_agree(tmp_path):
    path = tmp_path / "small.json"
    document = {**document_of(SMALL), "active": [[-26, -1], [1, 26]]}
    path.write_text(json.dumps(document))
    assert load_layout(path) == SMALL


def test_levels():
    assert SMALL.rms == pytest.approx(10 ** (-14 / 20))
    assert SMALL.amplitude == pytest.approx(SMALL.rms * np.sqrt(64 / 52))
    assert SMALL.magnitude_limit == 1.0
    assert dataclasses.replace(SMALL, clip_ratio=2.0).magnitude_limit == pytest.approx(2 * SMALL.rms)
    assert dataclasses.replace(SMALL, clip_ratio=20.0).magnitude_limit == 1.0
