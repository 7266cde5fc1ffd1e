"""What the head of an image file says, before anything is decoded: its size and which side is
up."""

import re
import struct

# As libjpeg looks for one: past bytes that belong to no segment, fill bytes and stuffed zeros.
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}

# Width and height of the image, and of its tiles, which are decoded whole.
_TIFF_WIDTHS, _TIFF_HEIGHTS = {256, 322}, {257, 323}
_TIFF_INTEGERS = {3: "H", 4: "I"}

_EXIF_ORIENTATION = 0x0112


def claimed_size(data: memoryview) -> tuple[int, int]:
    """Width and height, or a bound of them, of a PNG, BMP, TIFF or WebP file, before EXIF turns it.

    ValueError or struct.error for any other format, whose cost could not be told.
    """
    magic = bytes(data[:4])
    if magic == b"\x89PNG":
        return struct.unpack_from(">II", data, 16)
    if magic[:2] == b"BM":
        (header_size,) = struct.unpack_from("<I", data, 14)
        width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
        # A negative height says that the top row comes first.
        return abs(width), abs(height)
    if magic in {b"II*\0", b"MM\0*"}:
        return _tiff_size(data, "<" if magic[:2] == b"II" else ">")
    if magic == b"RIFF":
        if data[12:16] != b"VP8X":
            # Its sides have 14 bits.
            return 1 << 14, 1 << 14
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        return width, height
    raise ValueError(f"unknown format: {magic!r}")


def jpeg_frame(data: memoryview) -> tuple[int, int, int]:
    """Width, height and number of colour components, of the frame header (ITU T.81, B.2.2), which
    comes after any number of other segments; ValueError or struct.error if there is none."""
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        position = marker.end()
        code = data[position - 1]
        if code in _JPEG_FRAMES:
            height, width, num_components = struct.unpack_from(">HHB", data, position + 3)
            return width, height, num_components
        if code not in _JPEG_WITHOUT_LENGTH:
            position += struct.unpack_from(">H", data, position)[0]
    raise ValueError("no frame header")


def jpeg_orientation(data: memoryview) -> int:
    """EXIF's orientation (1 to 8) of a JPEG; 1, upright, where it says none.

    A JPEG is a chain of segments: FF, marker, length (ITU T.81, B.1.1.3). EXIF is a TIFF directory
    in segment E1, before any pixels.
    """
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if data[place + 1] == 0xE1 and segment[:6] == b"Exif\0\0":
            return _exif_orientation(segment[6:])
        place += 2 + length
    return 1


def other_orientation(data: memoryview) -> int:
    """EXIF's orientation (1 to 8) of a PNG (chunk eXIf), WebP (chunk EXIF) or TIFF file (tag 274);
    1 where there is none, as in every other format."""
    magic = bytes(data[:4])
    exif = data if magic in {b"II*\0", b"MM\0*"} else None
    if magic == b"\x89PNG":
        exif = _chunk(data, 8, b"eXIf", is_png=True)
    elif magic == b"RIFF":
        exif = _chunk(data, 12, b"EXIF", is_png=False)
    if exif is None:
        return 1
    return _exif_orientation(exif[6:] if exif[:6] == b"Exif\0\0" else exif)


def _chunk(data: memoryview, start: int, kind: bytes, is_png: bool) -> memoryview | None:
    """The content of the first chunk of this kind: after its length and kind in a PNG, its kind and
    length in a RIFF file."""
    place = start
    while place + 8 <= len(data):
        first, second = bytes(data[place : place + 4]), bytes(data[place + 4 : place + 8])
        found = second if is_png else first
        length = int.from_bytes(first, "big") if is_png else int.from_bytes(second, "little")
        if found == kind:
            return data[place + 8 : place + 8 + length]
        # A checksum of four bytes, or what makes the length even.
        place += 8 + length + (4 if is_png else length % 2)
    return None


def _exif_orientation(tiff: memoryview) -> int:
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    try:
        for tag, _, _, value in _tiff_entries(tiff, order or ""):
            if order and tag == _EXIF_ORIENTATION:
                (orientation,) = struct.unpack_from(f"{order}H", value)
                # Others are taken for upright, as OpenCV does.
                return orientation if 1 <= orientation <= 8 else 1
    except struct.error:
        # Cut short: an image without EXIF.
        return 1
    return 1


def _tiff_size(data: memoryview, order: str) -> tuple[int, int]:
    """Of the first directory: the largest of image and tile."""
    widths, heights = [0], [0]
    for tag, kind, _, value in _tiff_entries(data, order):
        if tag in _TIFF_WIDTHS | _TIFF_HEIGHTS:
            if kind not in _TIFF_INTEGERS:
                raise ValueError(f"tag {tag} is of type {kind}")
            (side,) = struct.unpack_from(order + _TIFF_INTEGERS[kind], value)
            (widths if tag in _TIFF_WIDTHS else heights).append(side)
    return max(widths), max(heights)


def _tiff_entries(data: memoryview, order: str) -> list[tuple[int, int, int, bytes]]:
    """Tag, type, count and value of the first directory (TIFF 6.0, section 2)."""
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    return list(struct.iter_unpack(f"{order}HHI4s", data[start + 2 : start + 2 + 12 * count]))
