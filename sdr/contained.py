"""Keep paths that come out of a file inside the folder that the file belongs to."""

from pathlib import Path, PurePath

from sdr.errors import InputError, OtaError


def contained_path(folder: Path, name: str, source: str, error: type[OtaError] = InputError) -> Path:
    """Return the path of a file below a folder, by the name that another file gives it.

    Args:
        folder: where it must lie, symbolic links followed.
        name: relative to it.
        source: the file that names it, for messages.
        error: class of the errors.

    Raises:
        `error`: the name is absolute or can't be printed, or leads out of the folder, by itself or by a symbolic link.
    """
    given = PurePath(name)
    if not name or not name.isprintable() or given.is_absolute() or ".." in given.parts:
        raise error(f"{source} names {name!r:.80}, which does not lie in {folder}; it was edited, restore it")
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise error(f"{source} names {name!r:.80}, which leads out of {folder} by a link; replace the link by the file")
    return path
