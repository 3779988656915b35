"""PDUs: our bytes are GNU Radio's bytes, and what isn't a PDU is refused."""

import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flowgraphs.pdu import cells_per_frame, check_frame, frame_cells, frame_pdu, parse_pdu, parse_pdus, serialise_pdu
from flowgraphs.supervisor import find_gnuradio_python
from sdr.errors import FlowgraphError, LayoutError
from sdr.layout import load_layout

METADATA = {"frame_number": 7, "big": -(2**40), "layout": "abcd1234", "level_db": -1.5, "last": True, "first": False}

_PEER = """
import pmt, sys
data = sys.stdin.buffer.read()
pair = pmt.deserialize_str(data)
metadata = pmt.to_python(pmt.car(pair))
assert repr(sorted(metadata.items())) == sys.argv[1], metadata
cells = pmt.c32vector_elements(pmt.cdr(pair))
assert cells == [1 + 2j, -3.5j], cells
sys.stdout.buffer.write(pmt.serialize_str(pair))
"""


def test_gnuradio_reads_what_we_write_and_we_read_what_it_writes():
    cells = np.array([1 + 2j, -3.5j], np.complex64)
    ours = serialise_pdu(METADATA, cells)
    result = subprocess.run(
        [find_gnuradio_python().python, "-c", _PEER, repr(sorted(METADATA.items()))],
        input=ours,
        capture_output=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr.decode()
    metadata, back, end = parse_pdu(result.stdout)
    assert metadata == METADATA
    assert end == len(result.stdout)
    np.testing.assert_array_equal(back, cells)


_values = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20)


@settings(max_examples=50, deadline=None)
@given(
    metadata=st.dictionaries(st.text(max_size=9), _values, max_size=4),
    parts=arrays.arrays(np.float32, st.integers(0, 20).map(lambda n: 2 * n), elements=st.floats(width=32)),
    before=st.binary(max_size=5),
)
def test_round_trip(metadata, parts, before):
    cells = parts.view(np.complex64)
    data = before + serialise_pdu(metadata, cells)
    found, back, end = parse_pdu(data, len(before))
    assert found == metadata
    assert end == len(data)
    np.testing.assert_array_equal(back.view(np.float32), parts)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_garbage_is_refused(data):
    try:
        parse_pdu(b"\x07" + data)
    except FlowgraphError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("cut", range(1, 40))
def test_truncated_pdu_is_refused(cut):
    data = serialise_pdu({"layout": "abcd1234", "n": 1}, np.ones(2, np.complex64))
    with pytest.raises(FlowgraphError):
        list(parse_pdus(data + data[:-cut]))


def test_a_frame_is_checked(make_frames):
    paper, air = load_layout("paper"), load_layout("air")
    frame = make_frames(paper)[0]
    metadata, cells, _ = parse_pdu(frame_pdu(frame, paper))
    assert cells.size == cells_per_frame(paper) == frame_cells(frame, paper).size
    check_frame(metadata, cells, paper)
    with pytest.raises(LayoutError, match="same layout"):
        check_frame(metadata, cells, air)
    with pytest.raises(LayoutError, match="cells"):
        check_frame(metadata, cells[:-1], paper)
    cells[3] = np.nan
    with pytest.raises(LayoutError, match="NaN"):
        check_frame(metadata, cells, paper)
