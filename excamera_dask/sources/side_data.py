"""What a film says beside its pictures: how they lie on a sphere or before two eyes, the display they were made on.

A decoder hands it on with its frames, as structures of libavutil; what stays behind in the container is only to be
had in libavformat's own words.
"""

from __future__ import annotations

import ctypes
import re
import struct
import threading
from collections.abc import Iterator
from typing import Any

import av
import av.logging
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation

from excamera_dask.sources.description import Orientation, PictureTags, Projection

SIDE_BY_SIDE, TOP_BOTTOM = 1, 2
STEREO_MODES = {
    (SIDE_BY_SIDE, False): 1, (SIDE_BY_SIDE, True): 11, (TOP_BOTTOM, False): 3, (TOP_BOTTOM, True): 2,
}  # fmt: skip
"""Matroska's StereoMode of an arrangement and whether the right eye comes first, where WebM has it."""
OTHER_STEREO = {
    3: "frame by frame",
    4: "checkerboard",
    5: "quincunx",
    6: "by lines",
    7: "by columns",
}
RECTANGULAR, EQUIRECTANGULAR, CUBEMAP = 0, 1, 2
HALF_A_SPHERE = (0, 0, 1 << 30, 1 << 30)
"""Bounds at the top, bottom, left and right, in units of 2^-32 of the whole sphere."""
LOST = {
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient light",
    "FILM_GRAIN_PARAMS": "film grain",
    "ICC_PROFILE": "ICC profile",
    "A53_CC": "closed captions",
}
LOST_IN_CONTAINERS = {"DOVI configuration": "Dolby Vision", "Frame Cropping": "cropping"}
COPY_SIZE = (8, 8)
_level = threading.Lock()


def _without_a_name(cls: Any, value: int) -> Any:
    """A type of side data that PyAV does not know; without one it cannot list any of a frame's."""
    member = object.__new__(cls)
    member._name_, member._value_ = f"TYPE_{value}", value
    return member


Type._missing_ = classmethod(_without_a_name)  # type: ignore[assignment]


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """The contents of a frame's side data, by the names of their types.

    They are read of a small copy. PyAV frees what goes by names beside their contents twice, as with the profile of a
    PNG file, so that a copy with one is never freed.
    """
    copy: Any = frame.reformat(*COPY_SIZE, "gray", interpolation=Interpolation.POINT)
    found = {data.type.name: bytes(data) for data in iter(copy.side_data)}
    if "ICC_PROFILE" in found:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(copy.side_data))
    return found


def picture_tags(
    frame: av.VideoFrame, container: Any, stream: Any, orientation: Orientation
) -> PictureTags:
    """What the first frame and its stream say, of the picture as it is after it was turned."""
    found = side_data(frame)
    stereo, other_stereo = _stereo(found.get("STEREO3D"), stream.metadata, orientation)
    projection, other_projection = _projection(found.get("SPHERICAL"), orientation)
    chromaticities, luminance = _mastering(found.get("MASTERING_DISPLAY_METADATA"))
    lost = [LOST[name] for name in LOST if name in found]
    lost += [LOST_IN_CONTAINERS[words] for words in _container_words(container, stream.index)]
    lost += [*other_stereo, *other_projection]
    return PictureTags(
        stereo, projection, chromaticities, luminance, _light(found.get("CONTENT_LIGHT_LEVEL")),
        tuple(dict.fromkeys(lost)),
    )  # fmt: skip


def _stereo(
    data: bytes | None, metadata: dict[str, str], orientation: Orientation
) -> tuple[int, list[str]]:
    """Matroska's StereoMode, and the name of an arrangement that WebM does not have."""
    if data is None:
        told = metadata.get("stereo_mode", "")
        return 0, [f"stereo ({told.replace('_', ' ')})"] if told.startswith("anaglyph") else []
    kind, flags = struct.unpack_from("2i", data)
    if kind not in (SIDE_BY_SIDE, TOP_BOTTOM):
        return 0, [f"stereo ({OTHER_STEREO[kind]})"] if kind in OTHER_STEREO else []
    inverted = bool(flags & 1)
    if orientation.transpose:
        kind = SIDE_BY_SIDE + TOP_BOTTOM - kind
    inverted ^= orientation.flip_columns if kind == SIDE_BY_SIDE else orientation.flip_rows
    return STEREO_MODES[kind, inverted], []


def _projection(
    data: bytes | None, orientation: Orientation
) -> tuple[Projection | None, list[str]]:
    """Matroska's Projection, and the name of one that it does not have."""
    if data is None:
        return None, []
    kind, yaw, pitch, roll, left, top, right, bottom, padding = struct.unpack_from("4i5I", data)
    pose = (yaw / 65536, pitch / 65536, roll / 65536)
    bounds = {0: (0, 0, 0, 0), 2: (top, bottom, left, right), 3: HALF_A_SPHERE}
    if orientation != Orientation():
        return None, ["spherical projection (of a turned picture)"]
    if kind in bounds:
        return Projection(EQUIRECTANGULAR, struct.pack(">5I", 0, *bounds[kind]), *pose), []
    if kind == 1:
        return Projection(CUBEMAP, struct.pack(">3I", 0, 0, padding), *pose), []
    if kind == 4:
        return Projection(RECTANGULAR, b"", *pose), []
    return None, [f"projection (of libavutil's kind {kind})"]


def _mastering(data: bytes | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Chromaticities of red, green, blue and white, and the most and the least light."""
    if data is None:
        return (), ()
    *pairs, has_primaries, has_luminance = struct.unpack_from("22i", data)
    ratios = [a / b if b else 0.0 for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    return (
        tuple(ratios[:8]) if has_primaries else (),
        (ratios[9], ratios[8]) if has_luminance else (),
    )


def _light(data: bytes | None) -> tuple[int, ...]:
    return () if data is None else struct.unpack_from("2I", data)


def _container_words(container: Any, index: int) -> Iterator[str]:
    """What the container says of a stream that no frame carries, of the names in LOST_IN_CONTAINERS."""
    with _level:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            told = container.dumps_format()
        finally:
            av.logging.set_level(before)
    parts = re.split(r"^  Stream #0:(\d+)", told, flags=re.MULTILINE)
    of_stream = dict(zip(parts[1::2], parts[2::2], strict=True)).get(str(index), "")
    return (words for words in LOST_IN_CONTAINERS if f"\n      {words}" in of_stream)
