"""Images of more than 8 bits per sample come out as bright as their 8-bit twins, whatever holds
them."""

import logging
import pickle
import struct
import tarfile
import zlib

import numpy as np
import pytest

from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.cache import cache_place, cached
from hvd_yolo.data.decoding import decode_deep, to_8_bits
from hvd_yolo.data.deep_images import Extent, choose_range, find_deep, range_of, range_problems
from hvd_yolo.data.image_files import LooseFiles
from hvd_yolo.errors import InputError
from tests.data.small_files import deep, encode, make_deep, picture, png, tiff, with_white

PICTURE = with_white(picture())
GREY = np.ascontiguousarray(PICTURE[..., 0])
GREY_BGR = np.dstack([GREY] * 3)
RGB = PICTURE[..., ::-1]
ALPHA = np.full((*GREY.shape, 1), 700, dtype=np.uint16)


def shares(image, dtype):
    return (image / 255).astype(dtype)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_every_bit_depth_gives_the_levels_of_the_8_bit_twin(bits, suffix, tmp_path):
    data = make_deep(tmp_path, [PICTURE], lambda image: encode(suffix, deep(image, bits)), suffix)
    dataset = open_dataset(data, "train")
    assert np.array_equal(dataset.image(0), PICTURE)
    assert dataset.value_range == (1 << bits) - 1
    # What goes to loader workers knows the range, and none of them looks for it.
    assert pickle.loads(pickle.dumps(open_dataset(data, "val"))).value_range == (1 << bits) - 1


@pytest.mark.parametrize(
    ("content", "expected", "value_range"),
    {
        "grey png": (encode(".png", deep(GREY, 12)), GREY_BGR, 4095),
        "png with alpha": (encode(".png", np.dstack([deep(PICTURE, 12), ALPHA])), PICTURE, 4095),
        "8 bits in 16": (encode(".png", PICTURE.astype(np.uint16)), PICTURE, 255),
        "grey": (tiff(deep(GREY, 12)), GREY_BGR, 4095),
        "big-endian": (tiff(deep(RGB, 12), order=">"), PICTURE, 4095),
        "with alpha": (tiff(np.dstack([deep(RGB, 12), ALPHA])), PICTURE, 4095),
        "pages": (tiff(deep(RGB, 12), num_pages=3), PICTURE, 4095),
        "white at zero": (tiff(4095 - deep(GREY, 12), photometric=0), GREY_BGR, 4095),
        "turned": (tiff(deep(GREY, 12), orientation=3), GREY_BGR[::-1, ::-1], 4095),
        "signed": (tiff(deep(GREY, 12).astype(np.int16)), GREY_BGR, 4095),
        "32 bits": (tiff(deep(GREY, 14).astype(np.uint32)), GREY_BGR, 16383),
        "signed 32 bits": (tiff(deep(RGB, 12).astype(np.int32)), PICTURE, 4095),
        "float32 shares": (tiff(shares(RGB, np.float32)), PICTURE, 1),
        "grey float64 shares": (tiff(shares(GREY, np.float64)), GREY_BGR, 1),
        "float32 levels": (tiff(GREY.astype(np.float32)), GREY_BGR, 255),
        "float32 of 12 bits": (tiff(deep(GREY, 12).astype(np.float32)), GREY_BGR, 4095),
    }.values(),
)
def test_every_layout_gives_the_levels_of_the_8_bit_twin(content, expected, value_range, tmp_path):
    suffix = ".png" if content[:4] == b"\x89PNG" else ".tif"
    dataset = open_dataset(make_deep(tmp_path, [content], bytes, suffix), "train")
    assert np.abs(dataset.image(0).astype(int) - expected).max() <= 1
    assert dataset.value_range == value_range


def test_a_turned_png_of_16_bits_is_scaled_as_well(tmp_path):
    content = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = encode(".png", deep(PICTURE, 12))
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content
    chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
    turned = make_deep(tmp_path, [data[:33] + chunk + data[33:]], bytes)
    assert np.array_equal(open_dataset(turned, "train").image(0), np.rot90(PICTURE, -1))


def test_one_range_holds_for_all_images_and_8_bits_stay(tmp_path):
    """A picture at night is not made bright, and a photograph beside it not touched."""
    night = (PICTURE // 32).astype(np.uint8)
    contents = [encode(".png", deep(PICTURE, 12)), encode(".png", deep(night, 12))]
    contents.append(encode(".png", PICTURE))
    dataset = open_dataset(make_deep(tmp_path, contents, bytes), "train")
    for index, expected in enumerate((PICTURE, night, PICTURE)):
        assert np.array_equal(dataset.image(index), expected)


def test_of_a_jpeg_data_set_no_file_is_opened_and_of_png_only_heads(tmp_path):
    assert range_of(["nowhere/a.jpg", "nowhere/b.JPEG", "nowhere/c.webp"], None) == 0
    # More than the head is not there.
    for name, content in (("8.png", encode(".png", PICTURE)), ("16.png", encode(".png", ALPHA))):
        (tmp_path / name).write_bytes(content[:33])
    files = np.array([str(tmp_path / name) for name in ("8.png", "16.png", "missing.png")])
    assert find_deep(files, LooseFiles(files)) == [1]


def test_images_in_tar_shards_are_scaled(tmp_path):
    loose = make_deep(tmp_path, [deep(PICTURE, 12)], lambda image: encode(".png", image))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "images/train/0.png", "0.png")
        tar.add(tmp_path / "labels/train/0.txt", "0.txt")
    shards = tmp_path / "shards.yaml"
    shards.write_text("format: webdataset\nnames: [a, b]\ntrain: a.tar\n")
    pixels = [open_dataset(str(file), "train").image(0) for file in (loose, shards)]
    assert np.array_equal(*pixels)
    assert np.array_equal(pixels[0], PICTURE)


def test_a_cache_is_not_read_with_another_range(tmp_path):
    data = make_deep(tmp_path / "data", [PICTURE], lambda image: encode(".png", deep(image, 12)))
    levels = []
    for value_range in (4095.0, 8190.0):
        dataset = open_dataset(data, "train")
        dataset.value_range = value_range
        place = cache_place("disk", str(tmp_path / "cache"), 1, lambda: 1 << 30)
        with cached(dataset, 64, place) as kept:
            levels.append(int(kept.scaled(0, 64).pixels().max()))
    assert levels == [255, 128]


def test_numbers_that_are_none_and_negative_ones_are_clipped_and_reported():
    values = np.array([[np.nan, -3e38, np.inf], [0, 0.5, 1]], dtype=np.float32)
    raw = decode_deep(np.frombuffer(tiff(values), dtype=np.uint8), "im")
    assert to_8_bits(raw, 1.0)[..., 0].tolist() == [[0, 0, 255], [0, 128, 255]]
    (problem,) = range_problems(1.0, [Extent("im", 1.0, True, 3)])
    assert problem.count == 1
    assert "negative, infinite or not numbers" in problem.what


def test_images_that_come_out_dark_or_clipped_are_reported():
    """An image of 12 bits among those of 16, and one beyond the range that was given."""
    found = [Extent("a", 4000.0, False, 0), Extent("b", 60_000.0, False, 0)]
    assert choose_range(found) == 65535
    (dark,) = range_problems(65535, found)
    assert ("dark" in dark.what, dark.examples) == (True, ["a: 4000"])
    (clipped,) = range_problems(4095, found)
    assert ("clipped" in clipped.what, clipped.examples) == (True, ["b: 60000"])


def test_shares_beside_integers_are_refused_by_name():
    found = [Extent("a.tif", 0.9, True, 0), Extent("b.png", 4000.0, False, 0)]
    with pytest.raises(InputError, match=r"a\.tif holds .* up to 0\.9, b\.png integers up to 4000"):
        choose_range(found)
    # Resampling overshoots.
    assert choose_range([Extent("a.tif", 1.03, True, 0)]) == 1


@pytest.mark.parametrize(
    "content",
    [
        tiff(np.dstack([deep(GREY, 12)] * 2)),
        tiff(np.dstack([deep(GREY, 12)] * 4), photometric=5),
        tiff(shares(GREY, np.float16)),
    ],
    ids=["grey with alpha", "CMYK", "float16"],
)
def test_what_opencv_cannot_decode_in_full_depth_is_named(content, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    dataset = open_dataset(make_deep(tmp_path, [content], bytes, ".tif"), "train")
    with pytest.raises(UnreadableImage, match=r"0\.tif"):
        dataset.image(0)


def test_a_deep_image_under_the_name_of_a_jpeg_is_named_and_not_black(tmp_path):
    content = encode(".png", deep(PICTURE, 12))
    dataset = open_dataset(make_deep(tmp_path, [content], bytes, ".jpg"), "train")
    with pytest.raises(UnreadableImage, match=r"0\.jpg: 16 bits per sample"):
        dataset.image(0)


@pytest.mark.parametrize("side", [0, 50_000])
def test_an_image_that_claims_too_much_is_not_decoded_to_find_its_range(side, tmp_path):
    content = png(side, side, bytes(100), depth=16)
    dataset = open_dataset(make_deep(tmp_path, [content], bytes), "train")
    assert dataset.settled_range() == 0
    with pytest.raises(UnreadableImage, match=r"0\.png: claims"):
        dataset.image(0)


def test_a_full_range_of_16_bits_undoes_257_exactly():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(to_8_bits(levels * 257, 65535)[..., 0], levels)
