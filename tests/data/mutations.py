"""A thousand mutated data sets, each read to its last image: `python -m tests.data.mutations
FOLDER`.

Prints a JSON line a case before it is tried and one after, so that the last line names the case
that ended the process.
"""

import json
import resource
import shutil
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.dataset import load_sample
from hvd_yolo.errors import InputError
from tests.data import small_files as files

NUM_CASES = 1000
ADDRESS_SPACE = 6 << 30

JUNK = [
    None, True, -1, 0, 0.5, 10**400, -(10**30), 1e308, float("nan"), float("inf"), "", "word",
    "12", "nan", [], {}, [1, 2, 3], [[[]]], ["x"] * 4, {"id": 1}, "a" * 10_000, "../../x", "/etc",
    "\0", "\ud800",
]  # fmt: skip
WORDS = ["nan", "inf", "-inf", "x", "1e999", "", "0x10", "--1", "None", "\u0664", "1,5", "\0"]
PATHS = [
    "../../etc/passwd", "../" * 50 + "x", "/etc/passwd", "a/../../../x", "..", ".", "/", "\0",
    "x" * 300, "x" * 10_000, "~/x", "nowhere.png", "C:\\x.png",
]  # fmt: skip


def bytes_mutated(rng, data):
    """Flips, a cut, or a piece copied over, put in or taken out."""
    data = bytearray(data)
    way = rng.integers(5)
    start = int(rng.integers(0, len(data)))
    end = start + int(pick(rng, [1, 4, 16, len(data)]))
    piece = bytes(data[start:end])
    place = int(rng.integers(0, len(data) + 1))
    if way == 0:
        for at in rng.integers(0, len(data), pick(rng, [1, 1, 2, 20])):
            data[at] = pick(rng, [rng.integers(256), rng.integers(32, 127)])
    elif way == 1:
        del data[place:]
    elif way == 2:
        data[place : place + len(piece)] = piece
    elif way == 3:
        data[place:place] = piece
    else:
        del data[start:end]
    return bytes(data)


def pick(rng, values):
    return values[rng.integers(len(values))]


def jpeg(rng):
    options = (cv2.IMWRITE_JPEG_PROGRESSIVE, int(rng.integers(2)))
    size = rng.integers(1, 100, 2).tolist()
    image = files.picture(*size) if rng.integers(3) else files.picture(*size)[..., 0]
    return files.encode(".jpg", image, *options)


def truncated_jpeg(rng, folder):
    data = jpeg(rng)
    return files.make_yolo(folder, data[: rng.integers(len(data))], name="im.jpg")


def mutated_jpeg(rng, folder):
    return files.make_yolo(folder, bytes_mutated(rng, jpeg(rng)), name="im.jpg")


def mutated_image(rng, folder):
    suffix = pick(rng, [".png", ".bmp", ".tiff", ".webp"])
    data = bytes_mutated(rng, files.encode(suffix, files.picture()))
    return files.make_yolo(folder, data, name="im" + suffix)


def wrong_header(rng, folder):
    heads = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"GIF89a", b"RIFF", b"\0"]
    head = pick(rng, heads)
    data = files.encode(pick(rng, [".png", ".jpg", ".bmp", ".webp"]), files.picture())
    return files.make_yolo(folder, head + data[len(head) :], name="im.jpg")


def claimed_size(rng, folder):
    suffix = pick(rng, [".jpg", ".png", ".bmp", ".tiff", ".webp"])
    data = files.claiming(suffix, *rng.integers(16_400, 65_000, 2).tolist())
    return files.make_yolo(folder, data, name="im" + suffix)


def unusual_png(rng, folder):
    image = files.picture(*rng.integers(1, 100, 2).tolist())
    kinds = [image.astype(np.uint16) * 257, image[..., 0], image[..., 0].astype(np.uint16) * 257]
    kinds += [np.dstack([image, image[..., :1]])]
    data = files.encode(".png", pick(rng, kinds))
    palette = [(b"PLTE", bytes(range(6))), (b"tRNS", b"\x80")]
    paletted = files.png(8, 4, b"\0\1\0\1\0\1\0\1\0" * 4, color=3, chunks=palette)
    return files.make_yolo(folder, pick(rng, [data, paletted]))


def cmyk_jpeg(rng, folder):
    data = files.cmyk_jpeg(*rng.integers(1, 100, 2).tolist())
    return files.make_yolo(folder, data, name="im.jpg")


def rotated_jpeg(rng, folder):
    data = files.with_exif(jpeg(rng), int(rng.integers(0, 10)))
    return files.make_yolo(folder, data, name="im.jpg")


def no_image(rng, folder):
    file = files.make_yolo(folder, pick(rng, [b"", b"\0", b"text", b"\xff\xd8\xff", b"BM"]))
    if rng.integers(2):
        image = folder / "images" / "im.png"
        image.unlink()
        image.symlink_to(pick(rng, ["/nowhere", "im.png", "/dev/null", "/etc"]))
    return file


def label_of_words(rng, folder):
    fields = ["0", "0.5", "0.5", "0.2", "0.2"]
    fields[rng.integers(5)] = pick(rng, [w for w in WORDS if w not in ("", "\u0664")])
    return files.make_yolo(folder, label=f"0 0.5 0.5 0.2 0.2\n{' '.join(fields)}\n")


def label_of_any_numbers(rng, folder):
    numbers = [*rng.normal(0, 2, 20), *pick(rng, [[0, -0.0, -1], [1e308, -1e308], [5e-324, 1]])]
    rows = [[rng.integers(2), *rng.choice(numbers, pick(rng, [4, 6, 8]))] for _ in range(20)]
    return files.make_yolo(
        folder, label="\n".join(" ".join(map(repr, map(float, r))) for r in rows)
    )


def label_of_other_columns(rng, folder):
    columns = pick(rng, [1, 2, 3, 4, 6, 8])
    return files.make_yolo(folder, label=" ".join(["0", *["0.5"] * (columns - 1)]))


def label_of_marks_and_ends(rng, folder):
    end = pick(rng, ["\n", "\r\n", "\r", "\r\n\r\n", " \t\n"])
    text = end.join(["0 0.5 0.5 0.2 0.2"] * 3) + pick(rng, ["", end])
    return files.make_yolo(folder, label=pick(rng, [b"", b"\xef\xbb\xbf"]) + text.encode())


def label_of_10000_boxes(rng, folder):
    rows = rng.uniform(-0.01, 1.01, (10_000, 4)).tolist()
    lines = [f"1 {cx:.4f} {cy:.4f} {w:.4f} {h:.4f}" for cx, cy, w, h in rows]
    return files.make_yolo(folder, label="\n".join(lines))


def mutated_label(rng, folder):
    label = bytes_mutated(rng, b"0 0.5 0.5 0.25 0.125\n1 0.25 0.5 0.1 0.2\n" * 3)
    return files.make_yolo(
        folder, label=pick(rng, [label, label.decode("latin1").encode("utf-16")])
    )


def mutated_yaml(rng, folder):
    letters = "abcdefghijklmnop"
    doubled = (f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise(letters))
    bomb = "a: &a [x, x]\n" + "".join(doubled)
    whole = b"path: .\ntrain: images\nnames: {0: a, 1: b}\nnc: 2\n"
    texts = [bytes_mutated(rng, whole)] * 6
    texts += [bomb + f"{key}: *p\n" for key in ("names", "train", "path", "nc", "format")]
    texts += ["[" * 2000, "names: [a, {}]\ntrain: images", "names: {0: a, x: b}\ntrain: images"]
    texts += [f"names: [a, b]\ntrain: {json.dumps(str(pick(rng, PATHS)))}\n"]
    return files.make_yolo(folder, yaml_text=pick(rng, texts))


def list_of_paths(rng, folder):
    lines = ["./images/im.png", *(str(p) for p in rng.choice(PATHS, rng.integers(1, 4)))]
    (folder / "lists").mkdir(parents=True)
    (folder / "lists" / "train.txt").write_text(pick(rng, ["\n", "\r\n"]).join(lines))
    return files.make_yolo(folder, yaml_text="train: lists/train.txt\nnames: [a, b]\n")


def coco_value(rng, folder):
    """A value somewhere in the file is another, or is away."""
    content = files.coco_content()
    parent, key = content, pick(rng, list(content))
    while isinstance(parent[key], list | dict) and rng.integers(8):
        parent = parent[key]
        key = pick(rng, list(parent) if isinstance(parent, dict) else range(len(parent)))
    if rng.integers(6):
        parent[key] = pick(rng, JUNK)
    else:
        del parent[key]
    return files.make_coco(folder, content)


def coco_text(rng, folder):
    whole = json.dumps(files.coco_content()).encode()
    texts = [bytes_mutated(rng, whole)] * 8 + [b"\xef\xbb\xbf" + whole, b"", b"null", b"[]", b"7"]
    texts += [
        b"[" * 200_000,
        b'{"images":' * 100_000,
        b"9" * 10_000,
        whole.decode().encode("utf-16"),
    ]
    return files.make_coco(folder, pick(rng, texts))


def coco_twice(rng, folder):
    content = files.coco_content()
    key = pick(rng, ["images", "categories"])
    content[key].append(content[key][0])
    return files.make_coco(folder, content)


def coco_path(rng, folder):
    content = files.coco_content()
    content["images"][rng.integers(2)]["file_name"] = pick(rng, PATHS)
    return files.make_coco(folder, content)


def voc_text(rng, folder):
    return files.make_voc(folder, bytes_mutated(rng, files.VOC_XML.encode()))


def voc_value(rng, folder):
    value = pick(rng, ["4", "64", "48", "5", "30", "1.5", "a", "1.png", "0"])
    other = pick(rng, [*WORDS, "-5", "1e300", "c", "<x/>", *PATHS[:5]])
    return files.make_voc(folder, files.VOC_XML.replace(f">{value}<", f">{other}<"))


def voc_entities(rng, folder):
    tenfold = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    declared = [
        f'<!ENTITY e0 "ha">{tenfold}', '<!ENTITY e11 SYSTEM "file:///etc/passwd">',
        f'<!ENTITY e11 "{"a" * 50_000}">', '<!ENTITY % p SYSTEM "http://127.0.0.1/x">%p;',
    ]  # fmt: skip
    text = files.VOC_XML.replace(">a<", f">{'&e11;' * 1000}<")
    return files.make_voc(folder, f"<!DOCTYPE annotation [{pick(rng, declared)}]>{text}")


def voc_path(rng, folder):
    path = pick(rng, [p for p in PATHS if p != "\0"])
    if rng.integers(2):
        return files.make_voc(folder, listing=f"1\n{path}\n")
    return files.make_voc(folder, files.VOC_XML.replace("1.png", path))


# What may come of each: the images are read, what cannot be used is reported as an error, some
# images are unreadable, or the data set is refused.
ANY = {"read", "reported", "unreadable", "refused"}
KINDS = {
    truncated_jpeg: {"unreadable"},
    mutated_jpeg: {"read", "unreadable"},
    mutated_image: {"read", "unreadable"},
    wrong_header: {"read", "unreadable"},
    claimed_size: {"unreadable"},
    unusual_png: {"read"},
    cmyk_jpeg: {"read"},
    rotated_jpeg: {"read"},
    no_image: {"unreadable", "refused"},
    label_of_words: {"refused"},
    label_of_any_numbers: {"refused"},
    label_of_other_columns: {"refused"},
    label_of_marks_and_ends: {"read"},
    label_of_10000_boxes: {"read"},
    mutated_label: {"read", "refused"},
    mutated_yaml: ANY,
    list_of_paths: {"read", "reported", "refused"},
    coco_value: ANY,
    coco_text: ANY,
    coco_twice: {"refused"},
    coco_path: {"unreadable", "refused"},
    voc_text: ANY,
    voc_value: ANY,
    voc_entities: {"refused"},
    # A path that leads nowhere is a line without an XML: counted, and the other image is read.
    voc_path: ANY,
}


def outcome(path, folder):
    """Reads everything; any other error than the two, or a sample that is none, is ours."""
    try:
        dataset = open_dataset(str(path), "train")
    except InputError as error:
        assert str(folder) in str(error), f"not named: {error}"
        return "refused"
    is_reported = any(problem.severity == "error" for problem in dataset.problems)
    found = "reported" if is_reported else "read"
    for index in range(len(dataset)):
        try:
            check_sample(load_sample(dataset, index), len(dataset.names))
        except UnreadableImage as error:
            assert repr(str(dataset.files[index]))[1:-1] in repr(str(error)), f"not named: {error}"
            found = "unreadable"
    return found


def check_sample(sample, num_classes):
    height, width, channels = sample.image.shape
    assert channels == 3 and sample.image.dtype == np.uint8
    assert height > 0 and width > 0
    assert sample.boxes.shape == (len(sample.labels), 4)
    assert np.isfinite(sample.boxes).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert (sample.boxes >= 0).all() and (sample.boxes <= (width, height, width, height)).all()
    assert ((sample.labels >= 0) & (sample.labels < num_classes)).all()


def peak_memory():
    """Of this process, in MiB. Not ru_maxrss, which starts from that of the parent."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) >> 10


def main(folder):
    cv2.setNumThreads(0)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    kinds = list(KINDS)
    for number in range(NUM_CASES):
        kind = kinds[number % len(kinds)]
        case = {"case": number, "kind": kind.__name__}
        print(json.dumps(case), flush=True)
        place = folder / str(number)
        path = kind(np.random.default_rng((1, number)), place)
        start = time.perf_counter()
        found = outcome(path, place)
        seconds = time.perf_counter() - start
        assert found in KINDS[kind], f"{found}, expected one of {KINDS[kind]}"
        print(json.dumps({**case, "outcome": found, "seconds": seconds, "peak_mib": peak_memory()}))
        shutil.rmtree(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
