"""What a packet says without being decoded: is it whole, and does it show a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

ONE_FRAME_A_PACKET = {
    "av1", "libdav1d", "ffv1", "rawvideo", "prores", "mjpeg", "png", "dnxhd", "huffyuv", "ffvhuff", "utvideo",
    "wrapped_avframe",
}  # fmt: skip


class Checker(NamedTuple):
    """Tells of a packet (sound, shows a frame); doubts name what makes packets alone no proof of the frames.

    needs_data: whether a frame is shown stands in the packet's bytes.
    """

    look: Callable[[bytes], tuple[bool, bool]]
    doubts: tuple[str, ...]
    needs_data: bool = False

    def __call__(self, packet: Any) -> tuple[bool, bool]:
        return self.look(packet)


def checker(stream: Any) -> Checker:
    """The check that suits the stream's codec and container."""
    context = stream.codec_context
    name = (
        context.codec.canonical_name if hasattr(context.codec, "canonical_name") else context.name
    )
    if name in ("h264", "hevc"):
        extra = bytes(context.extradata or b"")
        if (len(extra) < 23 and not (name == "h264" and len(extra) >= 7)) or extra[0] != 1:
            return Checker(_trust, ("no packet lengths",))
        doubts = ("interlaced",) if context.field_order not in (0, 1) else ()
        size = (extra[4 if name == "h264" else 21] & 3) + 1
        return Checker(lambda packet: (_units_fit(bytes(packet), size), True), doubts)
    if name in ("vp8", "libvpx"):
        return Checker(lambda packet: (True, bool(bytes(packet)[0] & 0x10)), (), True)
    if name in ("vp9", "libvpx-vp9"):
        return Checker(lambda packet: (True, _vp9_shows(bytes(packet))), (), True)
    if name in ONE_FRAME_A_PACKET:
        return Checker(_trust, ())
    return Checker(_trust, ("codec",))


def _trust(_: Any) -> tuple[bool, bool]:
    return True, True


def _units_fit(data: bytes, size: int) -> bool:
    """Whether the lengths of the network abstraction layer units add up to the packet (ISO/IEC 14496-15)."""
    at = 0
    while at + size <= len(data):
        at += size + int.from_bytes(data[at : at + size], "big")
    return at == len(data)


def _vp9_shows(data: bytes) -> bool:
    """Whether a VP9 packet shows a frame: a superframe does, else show_existing_frame or show_frame says."""
    if data[-1] & 0xE0 == 0xC0:
        return True
    bits = f"{data[0]:08b}" + (f"{data[1]:08b}" if len(data) > 1 else "")
    at = 4 if bits[2:4] != "11" else 5
    if bits[at] == "1":
        return True
    return bits[at + 2] == "1"
