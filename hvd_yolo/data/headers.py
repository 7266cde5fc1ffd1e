"""What the head of an image file says, before anything is decoded: its size, which side is up, and
its pixel format."""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

# As libjpeg looks for one: past bytes that belong to no segment, fill bytes and stuffed zeros.
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}

# Width and height of the image, and of its tiles, which are decoded whole.
_TIFF_WIDTHS, _TIFF_HEIGHTS = {256, 322}, {257, 323}
_TIFF_INTEGERS = {3: "H", 4: "I"}

_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339

# How files begin that are often met under the name of an image, at which byte, and what to do.
_OTHER_FORMATS = (
    (0, b"GIF8", "a GIF; convert it"),
    (0, b"II+\0", "a BigTIFF; convert it"),
    (0, b"MM\0+", "a BigTIFF; convert it"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000; convert it"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000; convert it"),
    (0, b"\xff\x0a", "a JPEG XL; convert it"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL; convert it"),
    (4, b"ftypavi", "an AVIF; convert it"),
    (4, b"ftyp", "a HEIC or a video; convert it"),
    (0, b"%PDF", "a PDF; convert it"),
    (0, b"version https://git-lfs", "a Git LFS pointer; fetch the files: git lfs pull"),
    (0, b"<", "a web page or SVG; download or convert it again"),
)

_EXIF_ORIENTATION = 0x0112

# The bytes from a place on, at most as many as asked for.
Read = Callable[[int, int], bytes]


class PixelFormat(NamedTuple):
    """What a PNG or TIFF holds per pixel and channel.

    kind: 1 unsigned, 2 signed, 3 floating-point, others as TIFF's SampleFormat has them;
    photometric: TIFF's (0 and 1 grey, where 0 has white at zero, 2 RGB).
    """

    bits: int = 8
    kind: int = 1
    photometric: int = 1

    @property
    def is_deep(self) -> bool:
        """Whether 8 unsigned bits do not hold them."""
        return self.bits > 8 or self.kind != 1


def pixel_format(read: Read) -> PixelFormat:
    """The pixel format of a PNG or TIFF file, of which no more is read than needed; 8 bits for any
    other format, and where the head is cut short."""
    head = read(0, 26)
    if head[:4] == b"\x89PNG" and len(head) == 26:
        return PixelFormat(bits=head[24])
    order = _TIFF_ORDERS.get(head[:4])
    if order is None:
        return PixelFormat()
    try:
        return _tiff_pixel_format(read, order, *struct.unpack_from(f"{order}I", head, 4))
    except struct.error:
        return PixelFormat()


def _tiff_pixel_format(read: Read, order: str, start: int) -> PixelFormat:
    (count,) = struct.unpack(f"{order}H", read(start, 2))
    # Without the tag an image has one bit per sample (TIFF 6.0, section 3).
    values = {_TIFF_BITS: 1, _TIFF_SAMPLE_FORMAT: 1, _TIFF_PHOTOMETRIC: 1}
    directory = read(start + 2, 12 * count)
    for tag, kind, number, inline in struct.iter_unpack(f"{order}HHI4s", directory):
        if tag in values:
            integer = order + _TIFF_INTEGERS.get(kind, "H")
            length = struct.calcsize(integer)
            # One number per channel, all the same; they lie elsewhere when four bytes do not hold
            # them.
            is_inline = number * length <= len(inline)
            value = inline if is_inline else read(*struct.unpack(f"{order}I", inline), length)
            (values[tag],) = struct.unpack_from(integer, value)
    return PixelFormat(
        *(values[tag] for tag in (_TIFF_BITS, _TIFF_SAMPLE_FORMAT, _TIFF_PHOTOMETRIC))
    )


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
    if magic in _TIFF_ORDERS:
        return _tiff_size(data, _TIFF_ORDERS[magic])
    if magic == b"RIFF":
        if data[12:16] != b"VP8X":
            # Its sides have 14 bits.
            return 1 << 14, 1 << 14
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        return width, height
    raise ValueError(f"unknown format: {magic!r}")


def other_format(data: memoryview) -> str:
    """What a file of none of the formats that are read is, and what to do, as the end of a
    message; empty where that is not known."""
    for start, magic, what in _OTHER_FORMATS:
        if data[start : start + len(magic)] == magic:
            return f" but {what}"
    return ""


class JpegFrame(NamedTuple):
    """A JPEG's frame header (ITU T.81, B.2.2)."""

    bits: int
    height: int
    width: int
    num_components: int


def jpeg_frame(data: memoryview) -> JpegFrame:
    """The frame header, which comes after any number of other segments; ValueError or struct.error
    if there is none."""
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        position = marker.end()
        code = data[position - 1]
        if code in _JPEG_FRAMES:
            return JpegFrame(*struct.unpack_from(">BHHB", data, position + 2))
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
