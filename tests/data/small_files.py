"""Small image files and data sets, made to be mutated."""

import json
import struct
import zlib

import cv2
import numpy as np
import yaml

# Where each format keeps width and height.
BMP_SIZE, PNG_SIZE, WEBP_SIZE = 18, 16, 24


def picture(width=64, height=48):
    """Smooth and coloured (H, W, 3), so that every format has something to code."""
    small = np.random.default_rng(width).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(suffix, image, *options):
    return cv2.imencode(suffix, image, options)[1].tobytes()


def png(width, height, rows, depth=8, color=2, chunks=()):
    """A PNG written chunk by chunk: `rows` as filtered bytes, color as in its header."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def cmyk_jpeg(width=16, height=8):
    """Adobe CMYK, every sample 128: one-code Huffman tables, so that a block is two zero bits."""
    components = b"".join(bytes((i, 0x11, 0)) for i in range(1, 5))
    one_code = bytes((1, *[0] * 15, 0))
    segments = [
        (0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)),
        (0xDB, bytes((0, *[1] * 64))),
        (0xC0, struct.pack(">BHHB", 8, height, width, 4) + components),
        (0xC4, b"\x00" + one_code),
        (0xC4, b"\x10" + one_code),
        (0xDA, bytes((4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0))),
    ]
    head = b"".join(struct.pack(">BBH", 255, k, len(d) + 2) + d for k, d in segments)
    blocks = -(-width // 8) * -(-height // 8)
    return b"\xff\xd8" + head + bytes(blocks) + b"\xff\xd9"


def with_exif(jpeg, orientation):
    """The JPEG with an EXIF segment that says how the camera was held."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def claiming(suffix, width, height):
    """An image file of a few hundred bytes whose header claims another size."""
    data = bytearray(encode(suffix, np.zeros((64, 64, 3), dtype=np.uint8)))
    if suffix == ".jpg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif suffix == ".png":
        return png(width, height, bytes(100))
    elif suffix == ".bmp":
        struct.pack_into("<ii", data, BMP_SIZE, width, -height)
    elif suffix == ".tiff":
        (start,) = struct.unpack_from("<I", data, 4)
        for tag, side in ((256, width), (257, height)):
            entry = data.index(struct.pack("<H", tag), start)
            struct.pack_into("<HHII", data, entry, tag, 4, 1, side)
    else:
        sides = ((side - 1).to_bytes(3, "little") for side in (width, height))
        return b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"".join(sides) + bytes(16)
    return bytes(data)


def make_yolo(folder, image=None, label="0 0.5 0.5 0.5 0.5\n", name="im.png", yaml_text=None):
    """A data set of one image, each part of which can be replaced by other bytes."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    (folder / "images" / name).write_bytes(encode(".png", picture()) if image is None else image)
    label = label if isinstance(label, bytes) else label.encode()
    (folder / "labels" / name).with_suffix(".txt").write_bytes(label)
    content = yaml.safe_dump({"path": ".", "train": "images", "names": ["a", "b"], "nc": 2})
    text = content if yaml_text is None else yaml_text
    (folder / "data.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "data.yaml"


def coco_content():
    box = {"category_id": 3, "area": 100.5, "iscrowd": 0}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (1, 2)
        ],
        "categories": [{"id": 3, "name": "a"}, {"id": 9, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": 1 + i % 2, "bbox": [4.5, 5, 10 + i, 20], **box} for i in range(3)
        ],
    }  # fmt: skip


def make_coco(folder, content=None):
    """content: the JSON as bytes or text, or what is written as JSON."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    for i in (1, 2):
        (folder / "train" / f"{i}.png").write_bytes(encode(".png", picture()))
    content = coco_content() if content is None else content
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    file = folder / "annotations" / "instances_train.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


VOC_XML = """<annotation><filename>1.png</filename>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>a</name><difficult>0</difficult>
<bndbox><xmin>4</xmin><ymin>5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>b</name><bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>
</object></annotation>
"""


def make_voc(folder, xml=VOC_XML, listing="1\n"):
    for kind in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / kind).mkdir(parents=True)
    (folder / "JPEGImages" / "1.png").write_bytes(encode(".png", picture()))
    xml = xml if isinstance(xml, bytes) else xml.encode()
    (folder / "Annotations" / "1.xml").write_bytes(xml)
    (folder / "ImageSets" / "Main" / "train.txt").write_bytes(listing.encode())
    return folder


def tiff(values, order="<", photometric=None, orientation=1, num_pages=1):
    """An uncompressed TIFF of values (H, W) or (H, W, C) of any numeric type, RGB from three
    channels on; its directory lies behind the pixels."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    photometric = (2 if channels >= 3 else 1) if photometric is None else photometric
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data += bytes(len(data) % 2)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    body = data
    for page in range(num_pages):
        start = 8 + len(body)
        numbers = {
            256: (4, [width]), 257: (4, [height]), 258: (3, [values.itemsize * 8] * channels),
            259: (3, [1]), 262: (3, [photometric]), 273: (4, [8]), 274: (3, [orientation]),
            277: (3, [channels]), 278: (4, [height]), 279: (4, [values.nbytes]),
            339: (3, [kind] * channels),
        }  # fmt: skip
        if channels in (2, 4) and photometric < 5:
            numbers[338] = (3, [2])
        end = start + 2 + 12 * len(numbers) + 4
        entries, elsewhere = b"", b""
        for tag, (type_, items) in sorted(numbers.items()):
            packed = struct.pack(f"{order}{len(items)}{'HI'[type_ - 3]}", *items)
            if len(packed) > 4:
                elsewhere += packed
                packed = struct.pack(f"{order}I", end + len(elsewhere) - len(packed))
            entries += struct.pack(f"{order}HHI", tag, type_, len(items)) + packed.ljust(4, b"\0")
        following = end + len(elsewhere) if page < num_pages - 1 else 0
        body += struct.pack(f"{order}H", len(numbers)) + entries
        body += struct.pack(f"{order}I", following) + elsewhere
    return head + body


def make_deep(folder, pictures, to_bytes, suffix=".png", splits=("train", "val")):
    """A YOLO data set with `pictures` in each split, each as the bytes that to_bytes(picture)
    gives."""
    for split in splits:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number, image in enumerate(pictures):
            (folder / f"images/{split}/{number}{suffix}").write_bytes(to_bytes(image))
            (folder / f"labels/{split}/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    content = {"path": ".", "names": ["a", "b"]} | {one: f"images/{one}" for one in splits}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "data.yaml")


def with_white(image):
    """The picture with a white and a black pixel, so that it uses its whole range."""
    image = image.copy()
    image[0, 0], image[0, 1] = 255, 0
    return image


def deep(image, bits):
    """An 8-bit picture in the levels of another bit depth, as 16 bits."""
    return np.round(image * (((1 << bits) - 1) / 255)).astype(np.uint16)
