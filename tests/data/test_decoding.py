"""Whole images of every kind are decoded; broken and boundless ones are named."""

import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import WHOLE
from hvd_yolo.data.decoding import UnreadableImage, open_image, read_file
from hvd_yolo.data.source_files import find_files
from hvd_yolo.data.sources import Sources
from tests.data.small_files import (
    claiming,
    cmyk_jpeg,
    encode,
    make_yolo,
    picture,
    png,
    with_exif,
)

PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def decoded(data, value_range=65535):
    return open_image(np.frombuffer(data, dtype=np.uint8), "im", WHOLE, value_range).pixels()


def refusal(data):
    with pytest.raises(UnreadableImage) as caught:
        decoded(data)
    assert str(caught.value).startswith("im: ")
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_formats_are_decoded_exactly(suffix):
    assert np.array_equal(decoded(encode(suffix, picture())), picture())


def test_16_bits_grey_alpha_and_palettes_become_8_bit_bgr():
    image = picture()
    grey = image[..., 0]
    wide = image.astype(np.uint16) * 257
    assert np.array_equal(decoded(encode(".png", wide)), image)
    assert np.array_equal(decoded(encode(".png", grey)), np.dstack([grey] * 3))
    assert np.array_equal(decoded(encode(".png", wide[..., 0])), np.dstack([grey] * 3))
    assert np.array_equal(decoded(encode(".png", np.dstack([image, grey]))), image)
    red_and_green = [(b"PLTE", bytes((255, 0, 0, 0, 255, 0))), (b"tRNS", b"\x80")]
    paletted = decoded(png(2, 1, b"\0\0\1", color=3, chunks=red_and_green))
    assert paletted.tolist() == [[[0, 0, 255], [0, 255, 0]]]


def test_cmyk_jpegs_become_bgr():
    image = decoded(cmyk_jpeg(20, 9))
    assert (image.shape, image.dtype) == ((9, 20, 3), np.uint8)
    # Adobe stores what ink leaves of the light: 128 / 255 of it, and black again as much.
    assert np.abs(image.astype(int) - 255 * (128 / 255) ** 2).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "turned"), [(1, lambda x: x), (3, lambda x: x[::-1, ::-1]), (6, np.rot90)]
)
def test_images_are_turned_upright_by_exif(orientation, turned):
    jpeg = encode(".jpg", picture())
    turns = {"k": -1} if turned is np.rot90 else {}
    assert np.array_equal(decoded(with_exif(jpeg, orientation)), turned(decoded(jpeg), **turns))


def test_a_png_is_turned_by_exif_behind_its_pixels():
    data = encode(".png", picture(120, 90))
    content = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    chunk = b"eXIf" + content
    chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    found = open_image(np.frombuffer(data[:-12] + chunk + data[-12:], dtype=np.uint8), "im", 64)
    turned = found.decode()
    assert (found.width, found.height) == turned.shape[1::-1]
    assert found.pixels().shape == (found.cut_height, found.cut_width, 3)


@pytest.mark.parametrize("options", [(), PROGRESSIVE])
def test_a_truncated_jpeg_is_unreadable_and_one_with_more_after_its_end_is_not(options):
    """Were it decoded, the missing part would be grey, with the boxes still there."""
    jpeg = encode(".jpg", picture(), *options)
    for length in (*range(1, len(jpeg), 97), len(jpeg) - 2):
        refusal(jpeg[:length])
    # Phones append a video, other programs notes of their own.
    assert np.array_equal(decoded(jpeg + b"video" * 1000), decoded(jpeg))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("size", [(0, 48), (64, 0)])
def test_an_image_without_a_side_is_unreadable(suffix, size):
    assert f"claims {size[0]} x {size[1]} pixels" in refusal(claiming(suffix, *size))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    data = with_exif(encode(".jpg", picture(64, 48)), orientation)
    found = open_image(np.frombuffer(data, dtype=np.uint8), "im", 32)
    assert (found.width, found.height, found.pixels().shape) == (64, 48, (24, 32, 3))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("size", [(50_000, 50_000), (17_000, 16_000)])
def test_what_claims_too_many_pixels_is_refused_before_it_is_decoded(suffix, size):
    start = time.perf_counter()
    assert f"claims {size[0]} x {size[1]} pixels" in refusal(claiming(suffix, *size))
    assert time.perf_counter() - start < 0.1


def test_a_jpeg_claims_the_size_of_its_frame_and_not_of_its_thumbnail():
    thumbnail = claiming(".jpg", 60_000, 60_000)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    jpeg = encode(".jpg", picture())
    assert decoded(jpeg[:2] + segment + jpeg[2:]).shape == picture().shape


def test_formats_whose_cost_cannot_be_told_are_refused():
    assert "not a JPEG, PNG, BMP, TIFF or WebP image" in refusal(b"GIF89a" + bytes(100))
    assert "not a JPEG, PNG, BMP, TIFF or WebP image" in refusal(b"")


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (b"GIF89a", "a GIF; convert it"),
        (b"II+\0\x08\0\0\0", "a BigTIFF; convert it"),
        (b"\0\0\0\x1cftypheic", "a HEIC or a video; convert it"),
        (b"\0\0\0\x1cftypavif", "an AVIF; convert it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page"),
    ],
)
def test_a_file_that_only_bears_the_name_of_an_image_is_recognized(start, remedy):
    assert remedy in refusal(start + bytes(100))


def test_a_jpeg_of_12_bits_is_refused_by_name():
    jpeg = bytearray(encode(".jpg", picture()))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    assert "a JPEG of 12 bits per sample; convert it" in refusal(bytes(jpeg))


@pytest.mark.parametrize("suffix", [".jfif", ".mpo"])
def test_the_first_picture_of_a_multi_picture_jpeg_counts(suffix, tmp_path):
    first, second = (encode(".jpg", picture(width)) for width in (64, 48))
    # CIPA DC-007: an index of both in APP2, then one whole JPEG behind the other.
    index = b"\xff\xe2" + struct.pack(">H", 10) + b"MPF\0MM\0*"
    data = make_yolo(tmp_path, first[:2] + index + first[2:] + second, name=f"im{suffix}")
    assert np.array_equal(open_dataset(str(data), "train").image(0), decoded(first))


def test_the_first_frame_of_an_animation_counts():
    frames = [np.full((8, 8, 3), level, dtype=np.uint8) for level in (200, 90)]
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [100, 100]
    for suffix in (".png", ".webp"):
        encoded = cv2.imencodeanimation(suffix, animation)[1].tobytes()
        assert np.abs(decoded(encoded).astype(int) - 200).max() <= 3


def test_one_bit_and_palette_images_are_not_deep():
    rows = b"\0\xf0\0\x0f"
    assert decoded(png(8, 2, rows, depth=1, color=0), 0)[..., 0].tolist() == [
        [255] * 4 + [0] * 4,
        [0] * 4 + [255] * 4,
    ]


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("text")
    for name in ("empty.png", "folder.png", "missing.png", "text.png", "nul\0.png"):
        with pytest.raises(UnreadableImage, match=name.split("\0", maxsplit=1)[0]):
            open_image(read_file(str(tmp_path / name)), name, WHOLE).pixels()
    found = find_files(str(tmp_path))
    sources = Sources(found, [0] * len(found.files), ("a",), (1,))
    for index in range(len(sources)):
        with pytest.raises(UnreadableImage, match=sources.place(index).name):
            sources.image(index)
