"""Columns of stored tables: users read them, so they stay."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet

from lab.experiments.group_decoder import SCHEMA
from lab.experiments.scores import SCORES_SCHEMA
from lab.experiments.tables import arrow_schema, write_rows
from sdr.recordings.dataset import IndexRow

DECODED = (
    "recording:string number:int64 frame:int64 start_sample:int64 image:string method:string seed:int64 steps:int64 "
    "status:string reason:string residual:double residual_limit:double expected_psnr_db:double accepted:bool "
    "snr_db:double cfo_hz:double seconds:double cbr:double side_cbr:double taps:list<item:float> picture:binary"
)
SCORES = (
    "recording:string image:string method:string seed:int64 csnr_db:double layout:string psnr_db:double "
    "residual:double residual_limit:double expected_psnr_db:double accepted:bool seconds:double"
)


def columns(schema: pyarrow.Schema) -> str:
    return " ".join(f"{field.name}:{field.type}".replace(": ", ":") for field in schema)


def test_columns_of_decoded_datasets_and_of_scores() -> None:
    assert columns(SCHEMA) == DECODED and columns(SCORES_SCHEMA) == SCORES
    assert arrow_schema(IndexRow).field("healthy").type == pyarrow.bool_()


def test_rows_are_written_whole(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    write_rows(tmp_path / "rows.parquet", rows)
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
