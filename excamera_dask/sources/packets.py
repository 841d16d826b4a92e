"""What a packet says without being decoded: is it whole, does it show a frame, may decoding begin with it.

An entry is believed only where the codec's bitstream says so. Codecs that are not named here are decoded from the
start, whatever their containers mark as key frames: those may lean on a palette or a picture from before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from excamera_dask.sources.nal_units import NalPackets, Said, nal_packets

__all__ = ["Checker", "Said", "checker", "codec_name"]

INTRA = {
    "012v", "aic", "apv", "bitpacked", "cllc", "dnxhd", "dpx", "dvvideo", "dxv", "exr", "ffvhuff", "hap", "hdr", "hq_hqa", "hqx",
    "huffyuv", "jpeg2000", "jpegls", "ljpeg", "magicyuv", "notchlc", "pixlet", "png", "prores", "qoi", "r10k", "r210", "rawvideo",
    "sheervideo", "speedhq", "utvideo", "v210", "v210x", "v308", "v408", "v410", "wrapped_avframe", "y41p", "yuv4",
}  # fmt: skip
"""Codecs whose every packet is a picture by itself; with a palette it may come from before."""
ONE_FRAME_A_PACKET = {*INTRA, "av1", "ffv1", "mjpeg"}
SURE_OF_DAMAGE = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
"""Codecs whose decoders mark every picture that they had to conceal something of."""

STEADY = {*INTRA, "vp8", "vp9", "av1", "ffv1", "mpeg1video", "mpeg2video", "theora"}
"""Codecs whose entries bring all that they need, or where the file's header has it, and nothing else."""

KEY_RANGE = 0x7F80
PICTURE, SEQUENCE_HEADER, VOP = b"\0\0\1\0", b"\0\0\1\xb3", b"\0\0\1\xb6"
INTRA_PICTURE = 1
SEQUENCE_OBU, FRAME_HEADER_OBU, FRAME_OBU = 1, 3, 6
HUFFMAN_TABLES, QUANTIZER_TABLES = b"\xff\xc4", b"\xff\xdb"

Look = Callable[[bytes], Said]


class Checker(NamedTuple):
    """Tells of a packet what it says; doubts name what makes packets alone no proof of the frames.

    name: of the codec. look: None where all packets are alike, `alike`. needs_data: whether a frame is shown stands in
    the packet's bytes. marks_damage: whether the decoder tells of each picture that it had to conceal something of.
    """

    name: str
    look: Look | None
    alike: Said
    doubts: tuple[str, ...]
    needs_data: bool
    marks_damage: bool

    def __call__(self, packet: Any) -> Said:
        if self.look is None:
            return self.alike
        if not (packet.is_keyframe or self.needs_data or isinstance(self.look, NalPackets)):
            return Said(True, True, False)
        return self.look(bytes(packet))

    @property
    def is_steady(self) -> bool:
        """Whether nothing in the packets so far changes what a decoder keeps when it is flushed."""
        if isinstance(self.look, NalPackets):
            return not self.look.told_in_packets
        return self.name in STEADY

    def is_entry(self, head: bytes) -> bool:
        """Whether a packet's first bytes say that decoding may begin with it."""
        if self.look is None:
            return self.alike.entry
        if isinstance(self.look, NalPackets):
            return self.look(head, is_head=True).entry
        return self.look(head).entry

    def is_start(self, packet: Any) -> bool:
        """Whether a decoder that begins with this packet shows every frame from here on."""
        return not isinstance(self.look, NalPackets) or self.look.is_start(bytes(packet))


def checker(stream: Any) -> Checker:
    """The look that suits the stream's codec and container."""
    context = stream.codec_context
    name = codec_name(stream)
    extra = bytes(context.extradata or b"")
    look = _look(name, extra)
    has_palette = context.format is not None and context.format.has_palette
    alike = Said(True, True, name in INTRA and not has_palette)
    doubts: list[str] = []
    if isinstance(look, NalPackets):
        if not look.lengths:
            doubts.append("no packet lengths")
        elif _is_interlaced(context):
            doubts.append("interlaced")
    elif name not in (*ONE_FRAME_A_PACKET, "vp8", "vp9"):
        doubts.append("codec")
    return Checker(name, look, alike, tuple(doubts), name in ("vp8", "vp9"), name in SURE_OF_DAMAGE)


def codec_name(stream: Any) -> str:
    """The codec, whatever the name of the decoder for it."""
    codec = stream.codec_context.codec
    return str(getattr(codec, "canonical_name", codec.name))


def _look(name: str, extra: bytes) -> Look | None:
    """What tells of a codec's packets; None where nothing in them does."""
    if name in ("h264", "hevc"):
        return nal_packets(name, extra)
    if name in ("vp8", "vp9"):
        return _look_at_vp8 if name == "vp8" else _look_at_vp9
    if name == "mjpeg":
        return _MjpegPackets()
    has_layer = _has_layer(extra)
    entries: dict[str, Callable[[bytes], bool]] = {
        "av1": _is_av1_entry,
        "ffv1": _is_ffv1_entry,
        "mpeg1video": _is_mpeg_entry,
        "mpeg2video": _is_mpeg_entry,
        "mpeg4": lambda data: _is_mpeg4_entry(data, has_layer),
        "theora": _is_theora_entry,
    }
    is_entry = entries.get(name)
    return None if is_entry is None else lambda data: _entry(is_entry(data))


def _entry(is_entry: bool) -> Said:
    return Said(True, True, is_entry)


def _is_interlaced(context: Any) -> bool:
    return getattr(context, "field_order", 0) not in (0, 1)


def _look_at_vp8(data: bytes) -> Said:
    """RFC 6386 section 9.1: key frame and show_frame in the frame tag."""
    shown = bool(data[0] & 0x10)
    return Said(True, shown, shown and not data[0] & 1)


def _look_at_vp9(data: bytes) -> Said:
    """The uncompressed header of a VP9 packet's first frame; a superframe shows one of its frames."""
    bits = f"{data[0]:08b}" + (f"{data[1]:08b}" if len(data) > 1 else "")
    at = 4 if bits[2:4] != "11" else 5
    repeats, inter, shows = bits[at] == "1", bits[at + 1] == "1", bits[at + 2] == "1"
    superframe = data[-1] & 0xE0 == 0xC0
    return Said(True, superframe or repeats or shows, shows and not inter and not repeats)


def _is_av1_entry(data: bytes) -> bool:
    """Whether a temporal unit has a sequence header and begins with a key frame that is shown at once (AV1 5.9.2)."""
    sequence, reduced = False, False
    for kind, start in _obus(data):
        if kind == SEQUENCE_OBU:
            sequence, reduced = True, bool(data[start] & 0x08)
        elif kind in (FRAME_HEADER_OBU, FRAME_OBU):
            shown_key = data[start] & 0xF0 == 0x10  # not a repeat, KEY_FRAME, show_frame
            return sequence and (reduced or shown_key)
    return False


def _obus(data: bytes) -> list[tuple[int, int]]:
    """Types of a packet's open bitstream units, and where their payloads begin (AV1 5.3)."""
    found, at = [], 0
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] & 4, data[at] & 2
        at += 2 if extended else 1
        size, shift = 0, 0
        while sized and at < len(data):
            size |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 128:
                break
        if at >= len(data):
            break
        found.append((kind, at))
        at = at + size if sized else len(data)
    return found


def _is_ffv1_entry(data: bytes) -> bool:
    """Whether the first bit that a range decoder reads says key frame (RFC 9043 section 4.4)."""
    return len(data) > 2 and int.from_bytes(data[:2], "big") >= KEY_RANGE


def _is_theora_entry(data: bytes) -> bool:
    """Whether a packet is a frame and that an intra frame (Theora specification 7.1)."""
    return data[0] & 0xC0 == 0


def _is_mpeg_entry(data: bytes) -> bool:
    """Whether a sequence header and then an intra picture begin an MPEG-1 or 2 packet (ISO/IEC 13818-2 6.2.3)."""
    picture = data.find(PICTURE)
    if picture < 0 or picture + 5 >= len(data) or not 0 <= data.find(SEQUENCE_HEADER) < picture:
        return False
    return data[picture + 5] >> 3 & 7 == INTRA_PICTURE


def _is_mpeg4_entry(data: bytes, has_layer: bool) -> bool:
    """Whether an MPEG-4 part 2 packet begins with an I-VOP whose layer is described (ISO/IEC 14496-2 6.2.5)."""
    vop = data.find(VOP)
    if vop < 0 or vop + 4 >= len(data) or data[vop + 4] >> 6 != 0:
        return False
    return has_layer or _has_layer(data[:vop])


def _has_layer(data: bytes) -> bool:
    """Whether a video object layer is described: start codes 0x20 .. 0x2f."""
    at = data.find(b"\0\0\1")
    while at >= 0 and at + 3 < len(data):
        if data[at + 3] >> 4 == 2:
            return True
        at = data.find(b"\0\0\1", at + 3)
    return False


class _MjpegPackets:
    """Pictures that bring their tables; Huffman tables may be the usual ones as long as no picture brought others."""

    def __init__(self) -> None:
        self._brought = False

    def __call__(self, data: bytes) -> Said:
        header = data[: data.find(b"\xff\xda") + 1] or data
        brings = HUFFMAN_TABLES in header
        own = QUANTIZER_TABLES in header and (brings or not self._brought)
        self._brought |= brings
        return _entry(own)
