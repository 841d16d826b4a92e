"""Input videos: what they are, and exact random access to their frames at linear cost.

A source is described once (`open_source`), by a pass over its packets; the description is a small immutable value that
travels to the workers, where `read_frames` turns it into pictures.
"""

from excamera_dask.sources.description import Colour, SourceInfo
from excamera_dask.sources.index import open_source
from excamera_dask.sources.reading import iter_frames, read_frames

__all__ = ["Colour", "SourceInfo", "iter_frames", "open_source", "read_frames"]
