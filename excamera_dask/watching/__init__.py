"""Videos as a player shows them: decoded once from the start, in order, at the times of playback.

This is how results are judged, so it shares nothing with `excamera_dask.sources`, the reader that is judged with them:
no index, no random access, no conversion in common. What is shown, when, and in which colours is what the command
ffmpeg makes of the same file.
"""

from excamera_dask.watching.film import Film, ShownFrame, watch
from excamera_dask.watching.projector import Hints

__all__ = ["Film", "Hints", "ShownFrame", "watch"]
