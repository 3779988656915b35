"""Annotate a recording of anybody: a copy of its metadata with annotations on top, for tools that show them."""

import copy
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sdr.errors import RecordingError
from sdr.files import replacing
from sdr.recordings.archive import DATA_SUFFIX, META_SUFFIX, is_archive, recording_parts
from sdr.recordings.metadata import EXTENSION_VERSION, NAMESPACE, import_sigmf


def annotated_metadata(path: str | os.PathLike[str], annotations: Iterable[Mapping[str, Any]]) -> str:
    """Return the metadata of a recording as text, with further annotations, all in the order of their first samples.

    Args:
        path: of the recording, as `recording_parts` takes it.
        annotations: SigMF annotations; `core:sample_start` counts from the recording's first sample.

    Raises:
        RecordingError: the metadata can't be read, or SigMF's validator refuses them.
    """
    import_sigmf()
    import jsonschema
    from sigmf.validate import validate

    meta, _ = recording_parts(path)
    try:
        content = json.loads(b"".join(meta.blocks(1 << 20)))
        info = content["global"]
        offset = int(info.get("core:offset", 0))
        extensions = info.setdefault("core:extensions", [])
        if NAMESPACE not in [extension["name"] for extension in extensions]:
            extensions.append({"name": NAMESPACE, "version": EXTENSION_VERSION, "optional": True})
        own = [{**item, "core:sample_start": item["core:sample_start"] + offset} for item in annotations]
        every = [*copy.deepcopy(content.get("annotations", [])), *own]
        content["annotations"] = sorted(every, key=lambda item: item["core:sample_start"])
        validate(content)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        jsonschema.ValidationError,
    ) as error:
        reason = error.message if isinstance(error, jsonschema.ValidationError) else str(error) or type(error).__name__
        raise RecordingError(
            f"frames of {os.fspath(path)} can't be annotated, as its metadata break SigMF's rules "
            f"({reason:.200}); mend {meta.path.name}"
        ) from None
    return json.dumps(content, indent=4) + "\n"


def write_annotated(folder: Path, stem: str, path: str | os.PathLike[str], text: str) -> None:
    """Write annotated metadata as `stem`, with a link to the recording's samples beside it where they are a file.

    Args:
        folder: to write into.
        stem: of both names.
        path: of the recording.
        text: that `annotated_metadata` returned.

    Raises:
        OSError: they can't be written.
    """
    with replacing(folder / f"{stem}{META_SUFFIX}") as file:
        file.write(text.encode())
    if not is_archive(path):
        _, data = recording_parts(path)
        (folder / f"{stem}{DATA_SUFFIX}").symlink_to(data.path.resolve())
