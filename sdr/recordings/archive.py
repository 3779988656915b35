"""Find the two parts of a recording: files beside each other, or members of a SigMF archive."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sdr.errors import RecordingError

META_SUFFIX = ".sigmf-meta"
DATA_SUFFIX = ".sigmf-data"
ARCHIVE_SUFFIX = ".sigmf"

MAX_MEMBERS = 64
"""An archive with more members is refused; one recording needs two and their folder."""


def sigmf_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the metadata path and the data path of a recording named by its stem or by either of its files.

    >>> [part.name for part in sigmf_paths("runs/tx.sigmf-data")]
    ['tx.sigmf-meta', 'tx.sigmf-data']
    """
    text = os.fspath(path)
    # A shell that completes a name stops at the hyphen.
    for suffix in (META_SUFFIX, DATA_SUFFIX, ARCHIVE_SUFFIX + "-"):
        text = text.removesuffix(suffix)
    if not Path(text).name or text.endswith(os.sep) or Path(text).name == "..":
        raise RecordingError(f"'{os.fspath(path)}' names no recording; give PATH{META_SUFFIX}")
    return Path(text + META_SUFFIX), Path(text + DATA_SUFFIX)


@dataclass(frozen=True)
class Part:
    """Bytes of a file.

    Attributes:
        path: the file.
        offset: where they begin.
        size: how many there are.
    """

    path: Path
    offset: int
    size: int

    def blocks(self, block_bytes: int) -> Iterator[bytes]:
        """Yield the bytes in blocks; the last one may be shorter, and a file that shrank meanwhile ends early.

        Raises:
            OSError: it can't be read.
        """
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left and (block := file.read(min(left, block_bytes))):
                left -= len(block)
                yield block


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is called like a SigMF archive."""
    return os.fspath(path).endswith(ARCHIVE_SUFFIX)


def archive_parts(path: Path) -> tuple[Part, Part]:
    """Return the metadata and the samples of an archive of one recording. Nothing is unpacked.

    Raises:
        RecordingError: it can't be read, is compressed or cut, has too many members, one that is no plain file or lies
            outside, or not exactly one recording.
    """
    members: dict[str, Part] = {}
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for count, member in enumerate(tar, start=1):
                if count > MAX_MEMBERS:
                    raise RecordingError(
                        f"{path} has more than {MAX_MEMBERS} members; unpack it and name one recording"
                    )
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isreg() or member.isdir()) or member.sparse:
                    raise RecordingError(f"{path}: member {member.name!r:.80} is no plain file inside; don't unpack it")
                if member.isdir():
                    continue
                if member.name in members:
                    raise RecordingError(f"{path} has two members {member.name!r:.80}; unpack it and keep one")
                if member.offset_data + member.size > size:
                    raise RecordingError(f"{path} is cut in member {member.name!r:.80}; copy it again")
                members[member.name] = Part(path, member.offset_data, member.size)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(
            f"{path} is no SigMF archive ({error}); an archive is a tar file, not compressed"
        ) from None
    except OSError as error:
        raise RecordingError(f"archive {path} can't be read: {error.strerror or error}; check the path") from None
    metas = [name for name in members if name.endswith(META_SUFFIX)]
    if len(metas) != 1:
        raise RecordingError(f"{path} holds {len(metas)} recordings, needed is one; unpack it and name one")
    data = metas[0].removesuffix(META_SUFFIX) + DATA_SUFFIX
    if data not in members:
        raise RecordingError(f"{path} has no member {data!r:.80} beside its metadata; ask for a complete archive")
    return members[metas[0]], members[data]


def recording_parts(path: str | os.PathLike[str]) -> tuple[Part, Part]:
    """Return the metadata and the samples of a recording: an archive PATH.sigmf, or files named as for `sigmf_paths`.

    Raises:
        RecordingError: one of them is missing, or is no plain file.
    """
    if is_archive(path):
        return archive_parts(Path(path))
    meta, data = sigmf_paths(path)
    return _file(meta, f"recording {meta}", "check the path"), _file(
        data, f"data file {data}", "copy it beside its metadata"
    )


def _file(path: Path, called: str, remedy: str) -> Part:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RecordingError(f"{called} can't be read: {error.strerror}; {remedy}") from None
    except ValueError as error:  # a name that no file can have
        raise RecordingError(f"{called} can't be read: {error}; {remedy}") from None
    if not path.is_file():
        raise RecordingError(f"{called} is not a regular file")
    return Part(path, 0, size)
