"""Name the layout file beside a recording, and tell whether one that is there says the same."""

from pathlib import Path

from sdr.errors import LayoutError
from sdr.layout import FrameLayout, load_layout


def layout_file(stem: Path) -> Path:
    """Return the name of the layout file beside the recording of a stem."""
    return stem.with_name(stem.name + ".layout.json")


def holds_layout(path: Path, layout: FrameLayout) -> bool:
    """Return whether a file holds just this layout, so that writing it again changes nothing."""
    try:
        return path.is_file() and load_layout(path).digest == layout.digest
    except LayoutError:
        return False
