"""What the first bytes of a file say, with nothing decoded: format, size, whether the end is there."""

from __future__ import annotations

import struct

ACCEPTED = ("JPEG", "PNG", "WEBP")

# (offset, bytes, name); only the accepted ones are ever handed to a decoder, the rest is for the message.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (4, b"ftyp", "a video (ISO media)"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
)


def format_of(data: bytes) -> str | None:
    """The format by its signature, as one of `ACCEPTED` or a name for the refusal; None when unknown."""
    for offset, magic, name in _SIGNATURES:
        if data.startswith(magic, offset) and (name != "WEBP" or data.startswith(b"RIFF")):
            return name
    return None


def header_size(name: str, data: bytes) -> tuple[int, int] | None:
    """(width, height) of a PNG or a WebP from its header; None where only the decoder's parser can tell.

    Pillow's WebP plugin allocates two canvases when it *opens* a file, so its own size comes too late.
    """
    if name == "PNG" and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if name == "WEBP" and len(data) >= 30:
        return _webp_size(data)
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """RFC 9649, sections 2.5 to 2.7: the first chunk's header holds the size."""
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


def png_exif(data: bytes) -> bytes | None:
    """The body of a PNG's eXIf chunk, which may also stand after the pixels; None when there is none."""
    offset = 8
    while len(header := data[offset : offset + 8]) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"eXIf":
            return data[offset + 8 : offset + 8 + length]
        offset += 12 + length
    return None


def is_truncated(name: str, data: bytes) -> bool:
    """Whether the file's end is missing: no end marker, or fewer bytes than its container declares."""
    if name == "PNG":
        return b"IEND\xaeB`\x82" not in data  # with its checksum; more bytes may follow
    if name == "WEBP":
        return len(data) < 12 or len(data) < int.from_bytes(data[4:8], "little") + 8
    return b"\xff\xd9" not in data[-64:]
