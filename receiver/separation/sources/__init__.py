"""Image codecs behind one interface, a family of tools a file; see :mod:`~receiver.separation.sources.source`."""

from receiver.separation.sources.ffmpeg import HEVC, JPEG_XL, VVC
from receiver.separation.sources.pillow import AVIF, JPEG, JPEG_2000
from receiver.separation.sources.source import Source

#: Every image codec by the name that methods have.
SOURCES: dict[str, Source] = {source.name: source for source in (VVC, HEVC, AVIF, JPEG_XL, JPEG_2000, JPEG)}

__all__ = ["SOURCES", "Source"]
