"""Training images a second and core: our loader, and Ultralytics' beside it, in turn.

    python benchmarks/data.py --data .../bccd/data.yaml --peer PYTHON

Mosaic, scale, shift, flip and colour as both have them by default, batches of 16, one process of
one thread. Both processes stay; in each round one loads while the other waits. PYTHON is the
interpreter of an environment with `ultralytics` in it; without --peer only hvd_yolo is measured.
Prints a table of medians and the share of the decoder's own speed that is reached, and writes
benchmarks/data.json. --profile shows where the time of our loader goes. --smoke: a few drawn images
at 64 pixels.
"""

import argparse
import cProfile
import pstats
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results
from hvd_yolo.config import AugmentConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.cache import cache_place, cached
from hvd_yolo.data.inputs import TrainingInputs
from hvd_yolo.data.order import Dealing, Order

BATCH = 16

PEER = """
import sys, time, cv2, torch
torch.set_num_threads(1)
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
data, size, cache, batch = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
cv2.setNumThreads(0)
info = check_det_dataset(data)
cache = "ram" if cache == "cached" else False
cfg = get_cfg(overrides=dict(imgsz=size, cache=cache, task="detect", mode="train", data=data))
dataset = build_yolo_dataset(cfg, info["train"], batch, info, mode="train", rect=False, stride=32)
def batches():
    while True:
        order = torch.randperm(len(dataset)).split(batch)
        yield from (dataset.collate_fn([dataset[int(i)] for i in indices]) for indices in order)
loader = batches()
print("ready", flush=True)
for line in sys.stdin:
    seen, started = 0, time.perf_counter()
    while seen < int(line):
        seen += len(next(loader)["img"])
    print("rate", seen / (time.perf_counter() - started), flush=True)
"""


def serve(data: str, size: int, cache: str, profiled: int) -> None:
    """Our side: loads as many images as each line of standard input asks for, and prints the
    rate."""
    cv2.setNumThreads(0)
    with ExitStack() as stack:
        dataset = open_dataset(data, "train")
        if cache == "cached":
            place = cache_place("ram", "", 1, lambda: sys.maxsize)
            dataset = stack.enter_context(cached(dataset, size, place))
        order = Order(0, len(dataset), size)
        dealing = Dealing(len(dataset), BATCH, BATCH, 1)
        inputs = TrainingInputs(dataset, AugmentConfig(), order, dealing, (0, 0), 0, sys.maxsize)
        slots = np.empty((2, inputs.slot_bytes), dtype=np.uint8)
        number = 0
        if profiled:
            profile = cProfile.Profile()
            profile.runcall(lambda: [inputs.fill(i, slots[0]) for i in range(profiled // BATCH)])
            pstats.Stats(profile).sort_stats("tottime").print_stats(20)
            return
        print("ready", flush=True)
        for line in sys.stdin:
            seen, started = 0, time.perf_counter()
            while seen < int(line):
                seen += len(inputs.fill(number, slots[number % 2]).items)
                number += 1
            print("rate", seen / (time.perf_counter() - started), flush=True)


class Side:
    """A loader in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        # As our worker processes and a rank on the CPU have it; the peer is given the same.
        settings = ["MALLOC_MMAP_MAX_=0", "MALLOC_TRIM_THRESHOLD_=4294967296", "OMP_NUM_THREADS=1"]
        self.process = subprocess.Popen(
            ["env", *settings, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._wait_for("ready")

    def rate(self, num_images: int) -> float:
        """Images a second."""
        self.process.stdin.write(f"{num_images}\n")
        self.process.stdin.flush()
        return float(self._wait_for("rate"))

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def _wait_for(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise SystemExit("a loader ended; what it said is above")


def decoder_rate(data: str, size: int) -> float:
    """Images a second of decoding alone, at the scale that `size` needs."""
    dataset = open_dataset(data, "train")
    started = time.perf_counter()
    for index in range(len(dataset)):
        dataset.scaled(index, size).pixels()
    return len(dataset) / (time.perf_counter() - started)


def main() -> None:
    """Runs what was asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="")
    parser.add_argument("--sizes", default="640,320", help="pixels, comma separated")
    parser.add_argument("--peer", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--profile", default="", help="SIZE:cached or SIZE:uncached")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.data, asked.sizes, asked.rounds, asked.images = "shapes:32", "64", 1, 32
    if not asked.data:
        parser.error("--data DATA.yaml is missing: the images to load")
    if asked.serve:
        return serve(asked.data, int(asked.serve[0]), asked.serve[1], 0)
    if asked.profile:
        size, cache = asked.profile.split(":")
        return serve(asked.data, int(size), cache, asked.images)

    results = []
    print(
        "| pixels | cache | hvd_yolo img/s | ultralytics img/s | ratio | of the decoder's limit |"
    )
    print("|---|---|---|---|---|---|")
    for size in map(int, asked.sizes.split(",")):
        for cache in ("cached", "uncached"):
            options = [str(size), cache]
            ours = [sys.executable, __file__, "--data", asked.data, "--serve", *options]
            sides = {"hvd_yolo": Side(ours)}
            if asked.peer:
                command = [asked.peer, "-c", PEER, asked.data, *options, str(BATCH)]
                sides["ultralytics"] = Side(command)
            rounds = [
                {name: side.rate(asked.images) for name, side in sides.items()}
                | {"decoder": decoder_rate(asked.data, size)}
                for _ in range(asked.rounds)
            ]
            for side in sides.values():
                side.close()
            results.append({"size": size, "cache": cache, "rounds": rounds})
            print(_row(size, cache, rounds), flush=True)
    write_results(__file__, {**vars(asked), "results": results}, asked.smoke)
    return None


def _row(size: int, cache: str, rounds: list[dict[str, float]]) -> str:
    ours = statistics.median(r["hvd_yolo"] for r in rounds)
    peer = ratio = limit = "-"
    if "ultralytics" in rounds[0]:
        peer = f"{statistics.median(r['ultralytics'] for r in rounds):.0f}"
        ratio = f"{statistics.median(r['hvd_yolo'] / r['ultralytics'] for r in rounds):.2f}"
    if cache == "uncached":
        # A mosaic decodes four images.
        limit = f"{statistics.median(4 * r['hvd_yolo'] / r['decoder'] for r in rounds):.0%}"
    return f"| {size} | {cache} | {ours:.0f} | {peer} | {ratio} | {limit} |"


if __name__ == "__main__":
    main()
