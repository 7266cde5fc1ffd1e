"""The size that annotations state is that of the image, or the image is refused, or turned."""

import json
import logging
import struct

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import EvalConfig
from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.cache import cache_place, cached
from hvd_yolo.data.dataset import WHOLE, load_sample, object_sizes, truth_of
from hvd_yolo.data.decoding import OtherSize, open_image
from hvd_yolo.data.judging import OTHER_SIZE, judge
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.data.survey import take_survey
from hvd_yolo.evaluate import evaluate, in_annotation_frame, results_json
from tests.data import small_files as files

WIDTH, HEIGHT = 64, 48
# A bright rectangle, which is what the one box is drawn around.
BOX = (8, 4, 30, 20)


def bright(box=BOX, width=WIDTH, height=HEIGHT):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def jpeg(orientation, box=BOX):
    data = files.encode(".jpg", bright(box), cv2.IMWRITE_JPEG_QUALITY, 100)
    return files.with_exif(data, orientation)


def coco(folder, images, size=(WIDTH, HEIGHT), boxes=None):
    """images: the bytes of each; boxes: one of each, xyxy."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "a"}]}
    for i, data in enumerate(images, 1):
        (folder / "train" / f"{i}.jpg").write_bytes(data)
        entry = {"id": i, "file_name": f"{i}.jpg"}
        if size:
            entry |= {"width": size[0], "height": size[1]}
        content["images"].append(entry)
        x1, y1, x2, y2 = boxes[i - 1] if boxes else BOX
        content["annotations"].append(
            {"id": i, "image_id": i, "category_id": 5, "bbox": [x1, y1, x2 - x1, y2 - y1],
             "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        )  # fmt: skip
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return folder


def around_bright(image):
    """The box around what is bright in an image."""
    ys, xs = np.nonzero(image.mean(2) > 128)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_lie_where_their_object_is_displayed(tmp_path, orientation):
    """Orientations 2 to 4 keep the size: boxes are those of the displayed image."""
    displayed = cv2.imdecode(np.frombuffer(jpeg(orientation), np.uint8), cv2.IMREAD_COLOR)
    box = BOX if orientation >= 5 else around_bright(displayed)
    dataset = open_dataset(str(coco(tmp_path, [jpeg(orientation)], boxes=[list(map(int, box))])),
                           "train")  # fmt: skip
    sample = load_sample(dataset, 0)
    assert sample.boxes.tolist() == [around_bright(sample.image)]
    assert sample.is_turned == (orientation >= 5)
    found = dataset.scaled(0, WHOLE)
    assert truth_of(dataset, 0, found).boxes.tolist() == sample.boxes.tolist()
    sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
    assert np.allclose(object_sizes(dataset, [0], 64), sides)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_stated_size_that_is_displayed_turns_nothing(tmp_path, orientation):
    displayed = cv2.imdecode(np.frombuffer(jpeg(orientation), np.uint8), cv2.IMREAD_COLOR)
    box = list(map(int, around_bright(displayed)))
    folder = coco(tmp_path, [jpeg(orientation)], (HEIGHT, WIDTH), [box])
    sample = load_sample(open_dataset(str(folder), "train"), 0)
    assert (sample.boxes.tolist(), sample.is_turned) == ([box], False)


def with_png_exif(orientation):
    data = files.encode(".png", bright())
    exif = jpeg(orientation)[12:][: struct.unpack(">H", jpeg(orientation)[4:6])[0] - 8]
    whole = files.png(1, 1, b"", chunks=[(b"eXIf", exif)])
    chunk = whole[33 : 33 + 12 + len(exif)]
    return data[:33] + chunk + data[33:]


def with_tiff_tag(orientation):
    """The file with its directory written once more, at the end."""
    data = files.encode(".tiff", bright(), cv2.IMWRITE_TIFF_COMPRESSION, 1)
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = struct.iter_unpack("<HHI4s", data[start + 2 : start + 2 + 12 * count])
    entries = [entry for entry in entries if entry[0] != 274]
    entries = sorted([*entries, (274, 3, 1, struct.pack("<HH", orientation, 0))])
    data += b"\0" * (len(data) % 2)
    head = data[:4] + struct.pack("<I", len(data)) + data[8:]
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return head + struct.pack("<H", len(entries)) + packed + bytes(4)


def with_webp_chunk(orientation):
    chunks = files.encode(".webp", bright(), cv2.IMWRITE_WEBP_QUALITY, 101)[12:]
    exif = struct.pack("<2sHI HHHIHH I", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (WIDTH, HEIGHT))
    head = b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + sides
    body = b"WEBP" + head + chunks + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("encode", [with_png_exif, with_tiff_tag, with_webp_chunk])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_other_formats_are_turned_as_jpegs_are(tmp_path, encode, orientation):
    """Or not at all, where this OpenCV does not: boxes follow what is displayed."""
    data = np.frombuffer(encode(orientation), np.uint8)
    found = open_image(data, "im", WHOLE)
    height, width = found.pixels().shape[:2]
    assert (found.width, found.height) == (width, height)
    if orientation >= 5:
        assert (found.orientation >= 5) == ((width, height) == (HEIGHT, WIDTH))
    dataset = open_dataset(str(coco(tmp_path, [data.tobytes()])), "train")
    if orientation != 3:
        sample = load_sample(dataset, 0)
        assert sample.boxes.tolist() == [around_bright(sample.image)]


def voc(folder, size, box=BOX):
    x1, y1, x2, y2 = box
    text = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    files.make_voc(
        folder,
        f"<annotation>{text}<object><name>a</name><bndbox>{corners}</bndbox></object></annotation>",
    )
    (folder / "JPEGImages" / "1.png").write_bytes(files.encode(".png", bright()))
    return folder


def test_voc_boxes_are_turned_too(tmp_path):
    folder = voc(tmp_path, (WIDTH, HEIGHT))
    (folder / "JPEGImages" / "1.jpg").write_bytes(jpeg(8))
    sample = load_sample(open_dataset(str(folder), "train"), 0)
    assert sample.is_turned and sample.boxes.tolist() == [around_bright(sample.image)]


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_an_image_of_another_size_is_refused_with_both_sizes(tmp_path, kind):
    size = (2 * WIDTH, 2 * HEIGHT)
    folder = coco(tmp_path, [jpeg(1)] * 2, size) if kind == "coco" else voc(tmp_path, size)
    dataset = open_dataset(str(folder), "train")
    with pytest.raises(OtherSize, match=r"1\.\w+: it is 64 x 48 pixels.* 128 x 96") as caught:
        load_sample(dataset, 0)
    assert isinstance(caught.value, UnreadableImage)
    surveys = {"train": take_survey(dataset, range(len(dataset)))}
    finding = next(f for f in judge({"train": dataset}, surveys) if f.what == OTHER_SIZE)
    assert (finding.severity, finding.count) == ("error", len(dataset))
    assert "64 x 48" in finding.examples[0]


def test_swapped_sides_without_exif_are_another_size(tmp_path):
    dataset = open_dataset(str(coco(tmp_path, [jpeg(1)], (HEIGHT, WIDTH))), "train")
    with pytest.raises(OtherSize):
        dataset.image(0)


@pytest.mark.parametrize("size", [None, (0, 0), (None, None), (WIDTH, None), ("64", "48")])
def test_a_size_that_is_not_stated_is_the_images(tmp_path, size):
    dataset = open_dataset(str(coco(tmp_path / "c", [jpeg(1)], size)), "train")
    assert load_sample(dataset, 0).boxes.tolist() == [list(BOX)]
    if size != ("64", "48"):
        size = size and tuple(side or 0 for side in size)
        dataset = open_dataset(str(voc(tmp_path / "v", size)), "train")
        assert load_sample(dataset, 0).boxes.tolist() == [list(BOX)]


def test_voc_boxes_are_cut_to_the_image_where_no_size_is_stated(tmp_path):
    dataset = open_dataset(str(voc(tmp_path / "cut", None, (50, -3, 80, 60))), "train")
    found = dataset.scaled(0, WHOLE)
    truth = truth_of(dataset, 0, found)
    assert truth.boxes.tolist() == [[50, 0, WIDTH, HEIGHT]]
    assert truth.areas.tolist() == [14 * HEIGHT]
    findings = judge({"train": dataset}, {"train": take_survey(dataset, [0])})
    assert [f.count for f in findings if f.what == "boxes partly outside the image"] == [1]
    # Neither learnt nor a truth that can be missed.
    dataset = open_dataset(str(voc(tmp_path / "out", None, (70, 0, 80, 10))), "train")
    assert len(load_sample(dataset, 0).boxes) == 0
    assert truth_of(dataset, 0, dataset.scaled(0, WHOLE)).is_crowd.all()


def test_check_counts_turned_images(tmp_path):
    dataset = open_dataset(str(coco(tmp_path, [jpeg(6), jpeg(8), jpeg(1)])), "train")
    survey = take_survey(dataset, range(3))
    assert survey.images[:, :2].tolist() == [[48, 64], [48, 64], [64, 48]]
    assert [line.rsplit("/", 1)[1] for line in survey.turned] == [
        "1.jpg: orientation 6", "2.jpg: orientation 8",
    ]  # fmt: skip
    findings = judge({"train": dataset}, {"train": survey})
    assert [f.severity for f in findings if "turned" in f.what] == ["warning"]


def test_a_cache_turns_the_same_boxes(tmp_path):
    dataset = open_dataset(str(coco(tmp_path / "d", [jpeg(6), jpeg(8)])), "train")
    place = cache_place("disk", str(tmp_path / "cache"), 1, lambda: 0)
    with cached(dataset, 32, place) as from_cache:
        for i in range(2):
            ours, theirs = load_sample(from_cache, i, 32), load_sample(dataset, i, 32)
            assert ours.is_turned and np.array_equal(ours.boxes, theirs.boxes)


def test_a_cache_is_not_believed_for_another_stated_size(tmp_path):
    folder = coco(tmp_path / "d", [jpeg(1)])
    place = cache_place("disk", str(tmp_path / "cache"), 1, lambda: 0)
    with cached(open_dataset(str(folder), "train"), 32, place) as from_cache:
        assert len(load_sample(from_cache, 0, 32).boxes) == 1
    file = folder / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"width": 64', '"width": 65'))
    with (
        cached(open_dataset(str(folder), "train"), 32, place) as from_cache,
        pytest.raises(OtherSize),
    ):
        load_sample(from_cache, 0, 32)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_says_once_that_boxes_are_turned(tmp_path, caplog, num_workers):
    dataset = open_dataset(str(coco(tmp_path, [jpeg(1), jpeg(6), jpeg(8)])), "train")
    with caplog.at_level(logging.WARNING):
        batches = evaluation_batches(dataset, 64, 1, 0, 1, num_workers)
        for _ in range(2):
            assert [batch.items[0].turn for batch in batches] == [1, 6, 8]
    (record,) = caplog.records
    assert "the first with image id 2" in record.getMessage()


class Shifted(torch.nn.Module):
    """Detects in each input the box around what is bright, and others a little off."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images, targets=None):
        found = []
        for number, image in enumerate(images):
            box = around_bright(image.permute(1, 2, 0).numpy() * 255)
            box = torch.tensor(box, dtype=torch.float32)
            boxes = torch.stack([box + number, box * 1.1, box + torch.tensor([0, 0, 4, 2])])
            scores = torch.tensor([0.9 - 0.01 * number, 0.7, 0.8])
            found.append({"boxes": boxes, "scores": scores, "labels": torch.zeros(3).long()})
        return found


def test_results_are_in_the_frame_of_the_json_and_score_the_same(tmp_path):
    boxes = [(8, 4, 30, 20), (20, 10, 60, 40), (2, 2, 12, 44), (30, 20, 50, 30)]
    orientations = (6, 8, 5, 1)
    images = [jpeg(turn, box) for turn, box in zip(orientations, boxes, strict=True)]
    folder = coco(tmp_path, images, boxes=boxes)
    dataset = open_dataset(str(folder), "train")
    batches = evaluation_batches(dataset, 64, 2, 0, 1, 0)
    comm = SingleComm()
    options = EvalConfig(loss=False)
    found = evaluate(Shifted(), dataset, batches, comm, options)
    assert sorted(found.turned[:, 1].tolist()) == [5, 6, 8]
    detections = in_annotation_frame(found.table.detections, found.turned)
    truth = COCO(folder / "annotations" / "instances_train.json")
    scorer = COCOeval(truth, truth.loadRes(results_json(detections, dataset.category_ids)), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    assert 0.2 < scorer.stats[0] < 1
    assert abs(scorer.stats[0] - found.metrics["AP"]) < 1e-9
    assert abs(scorer.stats[3] - found.metrics["AP_small"]) < 1e-9
