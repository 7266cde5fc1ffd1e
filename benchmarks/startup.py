"""How long a training of COCO's size takes to open its data, and whether a change made it longer.

    python benchmarks/startup.py --before CHECKOUT [--images 118000] [--rounds 5] [--folder FOLDER]

Makes, once in FOLDER or else in a temporary one, a train split of that many images, seven boxes
each, as YOLO text and as COCO JSON; all images are links to a few tiny JPEGs. Opens each in fresh
processes, in turn with the code of CHECKOUT (another checkout of the project, as `git worktree`
makes them) and with this one: `open` is open_dataset alone, `start` is all that a rank does to the
data before the first step, which is also the digest that ranks compare and, where there is one,
the value range. Prints the medians and the median of the ratios of the rounds, and writes
benchmarks/startup.json. --smoke: few images, one round, and this checkout twice unless --before
names another.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import REPOSITORY, write_results

NUM_BOXES, NUM_CLASSES = 7, 80
WIDTH, HEIGHT = 64, 48
# A file system allows a file some 60,000 names.
LINKS_PER_FILE = 10_000

# What each side runs, in its own checkout.
OPEN = """
import json, resource, sys, time
from hvd_yolo import feed
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.data import open_dataset
try:
    from hvd_yolo.value_range import share_value_range
except ImportError:
    share_value_range = None
try:
    from hvd_yolo.data.digest import summary
except ImportError:
    summary = lambda dataset: feed.told({"train": dataset})
began, worked = time.perf_counter(), time.process_time()
dataset = open_dataset(sys.argv[1], "train")
opened = time.perf_counter()
summary(dataset)
if share_value_range:
    share_value_range([dataset], 0.0, SingleComm())
ended = time.perf_counter()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({
    "images": len(dataset), "open": opened - began, "start": ended - began,
    "cpu": time.process_time() - worked, "MiB": memory,
}))
"""


def make_data(folder: Path, num_images: int) -> dict[str, Path]:
    """The data set in both formats, by format; made unless it is there."""
    formats = {"yolo": folder / "yolo" / "data.yaml", "coco": folder / "coco"}
    complete = folder / "num_images"
    if complete.is_file() and complete.read_text() == str(num_images):
        return formats
    for kind in formats:
        shutil.rmtree(folder / kind, ignore_errors=True)
    for path in ("yolo/images/train", "yolo/labels/train", "coco/train", "coco/annotations"):
        (folder / path).mkdir(parents=True)
    rng = np.random.default_rng(0)
    # Left, top, width and height as shares.
    boxes = rng.uniform(0.05, 0.45, (num_images, NUM_BOXES, 4))
    labels = rng.integers(0, NUM_CLASSES, (num_images, NUM_BOXES))
    labels[0], labels[-1] = 0, NUM_CLASSES - 1
    _link_images(folder, num_images)
    _write_yolo(folder / "yolo", boxes, labels)
    _write_coco(folder / "coco", boxes, labels)
    complete.write_text(str(num_images))
    return formats


def _name(number: int) -> str:
    return f"{number:012}"


def _link_images(folder: Path, num_images: int) -> None:
    jpeg = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8))[1].tobytes()
    for number in range(num_images):
        if number % LINKS_PER_FILE == 0:
            source = folder / "yolo/images/train" / f"{_name(number)}.jpg"
            source.write_bytes(jpeg)
        else:
            os.link(source, folder / "yolo/images/train" / f"{_name(number)}.jpg")
        os.link(source, folder / "coco/train" / f"{_name(number)}.jpg")


def _write_yolo(folder: Path, boxes: np.ndarray, labels: np.ndarray) -> None:
    centers = boxes[..., :2] + boxes[..., 2:] / 2
    for number, (center, box, label) in enumerate(zip(centers, boxes, labels, strict=True)):
        lines = [
            f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n"
            for c, (x, y), (_, _, w, h) in zip(label, center, box, strict=True)
        ]
        (folder / "labels/train" / f"{_name(number)}.txt").write_text("".join(lines))
    names = "".join(f"  {i}: class {i}\n" for i in range(NUM_CLASSES))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{names}")


def _write_coco(folder: Path, boxes: np.ndarray, labels: np.ndarray) -> None:
    images = [
        {"id": i, "file_name": f"{_name(i)}.jpg", "width": WIDTH, "height": HEIGHT}
        for i in range(len(boxes))
    ]
    pixels = (boxes * (WIDTH, HEIGHT, WIDTH, HEIGHT)).reshape(-1, 4).round(2).tolist()
    annotations = [
        {
            "id": number, "image_id": number // NUM_BOXES, "category_id": label + 1,
            "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
        }
        for number, (box, label) in enumerate(
            zip(pixels, labels.reshape(-1).tolist(), strict=True)
        )
    ]  # fmt: skip
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(NUM_CLASSES)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "annotations/instances_train.json").write_text(json.dumps(content))


def measure(checkout: Path, data: Path) -> dict[str, float]:
    """Seconds and peak memory of opening the data with the code of a checkout."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(data)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(data: Path, before: Path, num_rounds: int) -> list[dict[str, dict[str, float]]]:
    """Rounds of both sides; who comes first alternates."""
    sides = {"before": before, "after": REPOSITORY}
    for checkout in sides.values():
        # The first finds no file in memory.
        measure(checkout, data)
    return [
        {name: measure(sides[name], data) for name in sorted(sides, reverse=number % 2 == 0)}
        for number in range(num_rounds)
    ]


def main() -> None:
    """Runs what was asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout of the project")
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for the data; default: a temporary one")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.before, asked.images, asked.rounds = asked.before or REPOSITORY, 50, 1
    if asked.before is None:
        parser.error("--before CHECKOUT is missing: what to compare with")
    with tempfile.TemporaryDirectory() as temporary:
        data = make_data(asked.folder or Path(temporary), asked.images)
        results = {
            kind: compare(path, asked.before.resolve(), asked.rounds)
            for kind, path in data.items()
        }  # fmt: skip
    print(f"{asked.images:,} images, {asked.rounds} rounds, {os.cpu_count()} cores")
    print("| format | what | before | after | ratio |\n|---|---|---|---|---|")
    for kind, rounds in results.items():
        for what, unit in (("open", " s"), ("start", " s"), ("cpu", " s"), ("MiB", "")):
            print(_row(kind, what, unit, rounds))
    write_results(__file__, {"images": asked.images, "rounds": results}, asked.smoke)


def _row(kind: str, what: str, unit: str, rounds: list[dict[str, dict[str, float]]]) -> str:
    before, after = (
        statistics.median(one[side][what] for one in rounds) for side in ("before", "after")
    )
    ratio = statistics.median(one["after"][what] / one["before"][what] for one in rounds)
    return f"| {kind} | {what} | {before:.2f}{unit} | {after:.2f}{unit} | {ratio:.3f} |"


if __name__ == "__main__":
    main()
