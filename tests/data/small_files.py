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
