"""Check a dataset: everything that is damaged, missing or left over is named."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdr.errors import LayoutError, RecordingError
from sdr.files import is_partial
from sdr.recordings.archive import DATA_SUFFIX, META_SUFFIX
from sdr.recordings.dataset import (
    COLLECTION_SUFFIX,
    INDEX_NAME,
    TRUTH_FOLDER,
    IndexRow,
    RepeatedLines,
    file_sha512,
    layout_of,
    line_is_whole,
)


def verify_dataset(folder: Path) -> list[str]:
    """Return everything that is wrong with a dataset, one line each; nothing for a good one. All files are read.

    Raises:
        RecordingError: no dataset, or an index so damaged that nothing can be said about the rest.
    """
    wrong: list[str] = []
    path = folder / INDEX_NAME
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RecordingError(f"{folder} is no dataset: {INDEX_NAME} can't be read ({error.strerror})") from None
    rows: list[IndexRow] = []
    repeated = RepeatedLines()
    for number, line in enumerate(lines, start=1):
        if not line_is_whole(line):
            torn = number == len(lines) and not line.endswith(b"\n")
            what = "is torn: its writer was killed" if torn else "was changed or damaged"
            wrong.append(f"{INDEX_NAME} line {number} {what}")
            continue
        if again := repeated.add(number, line):
            wrong.append(f"{INDEX_NAME} line {number} {again}")
            continue
        try:
            rows.append(IndexRow.from_line(line))
        except RecordingError as error:
            wrong.append(f"{INDEX_NAME} line {number}: {error}")
    for row in rows:
        expected = [(row.recording + DATA_SUFFIX, row.data_sha512), (row.recording + META_SUFFIX, row.meta_sha512)]
        if row.truth_sha512:
            expected.append((f"{TRUTH_FOLDER}/{row.recording}.npz", row.truth_sha512))
        for name, sha512 in expected:
            if not (folder / name).is_file():
                wrong.append(f"{name} is missing")
            elif file_sha512(folder / name) != sha512:
                wrong.append(f"{name} was changed after it was recorded")
        if row.layout_digest:
            try:
                layout_of(folder, row)
            except LayoutError as error:
                wrong.append(str(error))
    wrong += [f"{name} is not complete: no line of the index stands for it" for name in incomplete_files(folder, rows)]
    wrong += _wrong_collections(folder, rows)
    return list(dict.fromkeys(wrong))


def _wrong_collections(folder: Path, rows: Sequence[IndexRow]) -> Iterator[str]:
    streams = {row.recording: row.meta_sha512 for row in rows}
    found = sorted(folder.glob("*" + COLLECTION_SUFFIX))
    if not found:
        yield f"the {COLLECTION_SUFFIX} file is missing: its writer was killed, or is still at it"
    for path in found:
        try:
            listed = {
                item["name"]: item["hash"] for item in json.loads(path.read_bytes())["collection"]["core:streams"]
            }
        except (ValueError, KeyError, TypeError):
            yield f"{path.name} is damaged"
            continue
        if listed != streams:
            yield f"{path.name} does not list the captures of the index: its writer was killed, or it was changed"


def incomplete_files(folder: Path, rows: Sequence[IndexRow]) -> list[str]:
    """Return the names of files, below the folder, that belong to no complete capture."""
    known = {row.recording for row in rows}
    names = []
    for place, suffixes in ((folder, (DATA_SUFFIX, META_SUFFIX)), (folder / TRUTH_FOLDER, (".npz",))):
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            stem = next((path.name.removesuffix(s) for s in suffixes if path.name.endswith(s)), None)
            partial = is_partial(path)
            if partial or (stem is not None and stem not in known):
                names.append(str(path.relative_to(folder)))
    return names
