"""From an image file to pixels, at no more than the resolution that is asked for. What it may cost
is read off its head before it is decoded."""

import os
import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from hvd_yolo.data.headers import (
    PixelFormat,
    claimed_size,
    jpeg_frame,
    jpeg_orientation,
    other_format,
    other_orientation,
    pixel_format,
)
from hvd_yolo.letterbox import cut_to

# 16384 x 16384: above any camera's, 0.8 GB decoded. OpenCV's own limit is four times this, and 700
# bytes of JPEG can claim it.
MAX_PIXELS = 1 << 28

# Grey, also with white at zero, and RGB, of TIFF's photometric interpretations.
_PLAIN_COLORS = (0, 1, 2)


class UnreadableImage(Exception):
    """An image file that cannot be decoded; the text names it."""


class OtherSize(UnreadableImage):
    """An image whose size is not the one that its annotations state: their boxes cannot be used;
    the text has both sizes."""


class Scaled(NamedTuple):
    """An image that is width x height in its file, turned upright, with its long side cut to
    cut_width x cut_height; decoded when the pixels are asked for. See scaled().

    decode: gives all pixels or, sooner, fewer, but not fewer than the cut has. orientation: that of
    EXIF (1 to 8), by which the pixels of the file are turned; from 5 on width and height change
    places.
    """

    width: int
    height: int
    cut_width: int
    cut_height: int
    decode: Callable[[], np.ndarray]
    orientation: int = 1

    def pixels(self) -> np.ndarray:
        """(cut_height, cut_width, 3) uint8 BGR; raises UnreadableImage."""
        pixels = self.decode()
        height, width, _ = pixels.shape
        if (width, height) == (self.cut_width, self.cut_height):
            return pixels
        # Linear interpolation looks at two pixels a side: from twice the size on it would skip
        # some.
        has_gaps = width >= 2 * self.cut_width or height >= 2 * self.cut_height
        method = cv2.INTER_AREA if has_gaps else cv2.INTER_LINEAR
        return cv2.resize(pixels, (self.cut_width, self.cut_height), interpolation=method)


def scaled(
    width: int, height: int, size: int, decode: Callable[[], np.ndarray], orientation: int = 1
) -> Scaled:
    """The width x height image that `decode` gives, its long side cut to at most `size`."""
    return Scaled(width, height, *cut_to(width, height, size), decode, orientation)


def read_file(file: str) -> np.ndarray:
    """The bytes (n) uint8 of an image file; raises UnreadableImage when it cannot be opened."""
    # Not cv2.imread: it prints a warning of its own, cannot read paths the locale does not know,
    # and fills what a truncated JPEG lacks with grey.
    return np.frombuffer(_read(file, _read_whole), dtype=np.uint8)


def read_part(file: str, start: int, length: int) -> bytes:
    """At most `length` bytes of a file from `start` on; raises UnreadableImage."""
    return _read(file, lambda descriptor: os.pread(descriptor, length, start))


def _read(file: str, read: Callable[[int], bytes]) -> bytes:
    """What `read` gives of the file's descriptor; raises UnreadableImage."""
    try:
        # A third of the time of np.fromfile, which opens a file object.
        descriptor = os.open(file, os.O_RDONLY)
        try:
            return read(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableImage(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableImage(f"{file!r}: {error}") from error


def _read_whole(descriptor: int) -> bytes:
    """A file system may give less than was asked for at once."""
    left = os.fstat(descriptor).st_size
    parts = []
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def open_image(encoded: np.ndarray, file: str, size: int, value_range: float = 0.0) -> Scaled:
    """The image in the bytes (n) of a JPEG, PNG, BMP, TIFF or WebP file.

    Turned upright as EXIF says; grey, CMYK and palettes are converted, alpha is dropped, and of
    several pages or frames the first is taken. An image of more than 8 bits per sample is scaled so
    that `value_range` becomes 255; 0: no such image is expected. A JPEG at least twice as large as
    `size` is decoded at a half, a quarter or an eighth: libjpeg scales before it leaves the
    frequencies, which is faster and loses nothing that the cut would keep. Raises UnreadableImage,
    which names `file`, now or when the pixels are asked for: for anything else, a truncated file,
    or one that claims more than MAX_PIXELS.
    """
    width, height, num_components = _checked_size(encoded, file)
    magic = encoded[:4].tobytes()
    orientation = 1
    if magic[:3] == b"\xff\xd8\xff":
        orientation = jpeg_orientation(memoryview(encoded))
        # CMYK has four components.
        if orientation == 1 and num_components < 4:
            factor = next(f for f in (8, 4, 2, 1) if f == 1 or max(width, height) >= f * size)
            decode = partial(_decode_jpeg, encoded, file, -(-width // factor), -(-height // factor))
            return scaled(width, height, size, decode)
        if orientation >= 5:
            width, height = height, width
    elif magic[:2] != b"BM" and (magic != b"\x89PNG" or b"eXIf" in encoded.tobytes()):
        # What these formats say of their size and their turn is left to OpenCV.
        whole = _decode_any(encoded, file, value_range)
        orientation = other_orientation(memoryview(encoded))
        if orientation >= 5 and whole.shape[:2] == (height, width) and width != height:
            # Not every version of OpenCV turns every format.
            orientation = 1
        return scaled(whole.shape[1], whole.shape[0], size, lambda: whole, orientation)
    return scaled(
        width, height, size, partial(_decode_any, encoded, file, value_range), orientation
    )


def is_deep(encoded: np.ndarray) -> bool:
    """Whether the bytes (n) of an image file are a PNG or TIFF whose samples 8 bits do not hold."""
    return pixel_format_of(encoded).is_deep


def pixel_format_of(encoded: np.ndarray) -> PixelFormat:
    """The pixel format of an image file, whose bytes (n) are given."""
    return pixel_format(lambda start, length: encoded[start : start + length].tobytes())


def decode_deep(encoded: np.ndarray, file: str) -> np.ndarray:
    """The values (H, W) or (H, W, 3) BGR of an image of more than 8 bits per sample, as they are in
    its file, of any numeric type; raises UnreadableImage."""
    _checked_size(encoded, file)
    held = pixel_format_of(encoded)
    pixels = None
    if held.photometric in _PLAIN_COLORS:
        # A grey image of 32 bits is only decoded as grey.
        pixels = _decode(encoded, file, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    # Of some layouts OpenCV keeps only the upper byte, as of grey with alpha in a TIFF.
    if pixels is None or (held.bits > 8 and pixels.dtype.itemsize == 1):
        raise UnreadableImage(
            f"{file}: {held.bits} bits per sample in a layout that is not read (photometric "
            f"interpretation {held.photometric}): convert it to grey or RGB without alpha"
        )
    return pixels


def to_8_bits(pixels: np.ndarray, value_range: float, is_inverted: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 of the values (H, W) or (H, W, 3) of a deep image, of which 0 becomes 0 and
    `value_range` 255, rounded to the nearest level; what lies outside and NaN is clipped.

    is_inverted: 0 is white and `value_range` black. A full range of 65535 undoes a multiplication
    by 257 exactly.
    """
    # Of unsigned values OpenCV's conversion clips what exceeds the range by itself.
    if pixels.dtype != np.uint16:
        finite = np.nan_to_num(pixels.astype(np.float64), posinf=value_range)
        pixels = np.clip(finite, 0, value_range)
    levels = cv2.convertScaleAbs(pixels, alpha=255 / value_range)
    levels = 255 - levels if is_inverted else levels
    return levels if levels.ndim == 3 else cv2.cvtColor(levels, cv2.COLOR_GRAY2BGR)


def _decode_any(encoded: np.ndarray, file: str, value_range: float) -> np.ndarray:
    held = pixel_format_of(encoded)
    if not held.is_deep:
        return _decode(encoded, file)
    if not value_range:
        raise UnreadableImage(
            f"{file}: {held.bits} bits per sample, but no value range is known for it: a name that "
            "ends in .png, .tif or .tiff is needed to determine one"
        )
    return to_8_bits(decode_deep(encoded, file), value_range, held.photometric == 0)


def _decode_jpeg(encoded: np.ndarray, file: str, width: int, height: int) -> np.ndarray:
    """An upright JPEG at the least scale that has so many pixels.

    By libjpeg-turbo through simplejpeg: the same bits as OpenCV's in less than half the time. Of a
    faulty one OpenCV says whether it can be mended, as with stray bytes, or not, as with missing
    pixels.
    """
    try:
        return simplejpeg.decode_jpeg(encoded, "BGR", min_height=height, min_width=width)
    except (KeyError, ValueError):
        # A KeyError is a sampling of colours that simplejpeg has no name for.
        return _decode(encoded, file)


def _decode(encoded: np.ndarray, file: str, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    try:
        image = cv2.imdecode(encoded, flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{file}: {error.err}") from error
        raise UnreadableImage(f"{file}: OpenCV cannot decode it: {error.err}") from error
    if image is None:
        raise UnreadableImage(f"{file}: truncated, or not an image that OpenCV can decode")
    return image


def _checked_size(encoded: np.ndarray, file: str) -> tuple[int, int, int]:
    """Width, height and colour components as the head claims them; 0 components: not told."""
    data = memoryview(encoded)
    try:
        is_jpeg = data[:3] == b"\xff\xd8\xff"
        bits, height, width, num_components = (
            jpeg_frame(data) if is_jpeg else (8, *claimed_size(data)[::-1], 0)
        )
    except (struct.error, ValueError) as error:
        raise UnreadableImage(
            f"{file}: not a JPEG, PNG, BMP, TIFF or WebP image{other_format(data)}"
        ) from error
    if bits != 8:
        raise UnreadableImage(
            f"{file}: a JPEG of {bits} bits per sample; convert it to a PNG or TIFF of 16 bits"
        )
    if width < 1 or height < 1:
        raise UnreadableImage(f"{file}: claims {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"{file}: claims {width} x {height} pixels, more than 16384 x 16384; cut it into tiles"
        )
    return width, height, num_components
