"""Memory of the data plane of one node: several ranks with their workers over one cached pack,
against one process that reads the same global batch.

    python benchmarks/memory.py --data .../data.yaml --images 5000 --ranks 4 --workers 2

The train split is repeated by links to --images files and cached in memory (/dev/shm). Each rank is
a process that draws --batches batches from its Loader, as a job does, and touches every page of the
pack. The sum over all processes is of the proportional set size (/proc/PID/smaps: what several map
is shared out among them), with the pack, which belongs to no process, counted whole and once.
`import torch` takes what it takes in every rank; the last column leaves that out.

Then one rank with workers draws --slope batches to warm up and as many again, while its own and its
workers' anonymous memory is watched; the slope is the straight line's through it. Prints two tables
and writes benchmarks/memory.json. --smoke: a few drawn images.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import draw_data, write_results
from hvd_yolo.data import open_dataset
from hvd_yolo.data.cache import CachedImages, cache_place, cached
from hvd_yolo.memory import free_on_host

# Takes pixels, images an update, ranks, this rank, workers, batches, batches to watch, the data set
# and the folder of the pack.
RANK = """
import itertools, json, os, sys, torch
from pathlib import Path
from hvd_yolo.config import AugmentConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.cache import cache_place, cached
from hvd_yolo.data.inputs import TrainingInputs
from hvd_yolo.data.loader import training_batches
from hvd_yolo.data.order import Dealing, Order
from hvd_yolo.memory import free_on_host

size, update, ranks, rank, workers, number, watched = map(int, sys.argv[1:8])
data, folder = sys.argv[8:]
torch.set_num_threads(1)

def anonymous():
    family = [os.getpid(), *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in family]
    return [int(text.split("RssAnon:")[1].split()[0]) * 1024 for text in texts]

dataset = open_dataset(data, "train")
with cached(dataset, size, cache_place("ram", folder, 1, free_on_host)) as dataset:
    order = Order(0, len(dataset), size)
    dealing = Dealing(len(dataset), update, -(-update // ranks), ranks)
    inputs = TrainingInputs(dataset, AugmentConfig(), order, dealing, (0, 0), rank, 10**6)
    batches = training_batches(inputs, workers, 2, torch.device("cpu"))
    for batch in itertools.islice(batches, number):
        pass
    for index in range(len(dataset)):
        dataset.scaled(index, size).pixels().reshape(-1)[::1024].sum()
    print("DRAWN", flush=True)
    sys.stdin.readline()
    found = []
    for i, _ in enumerate(itertools.islice(batches, watched)):
        if i % 50 == 0:
            found.append(anonymous())
    print("WATCHED", json.dumps(found), flush=True)
    batches.close()
"""


def repeated(data: str, number: int, folder: Path) -> Path:
    """A data set of so many links to the images and labels of the train split."""
    original = open_dataset(data, "train")
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for index in range(number):
        image = Path(str(original.files[index % len(original)])).resolve()
        (folder / "images" / f"{index:06}{image.suffix}").symlink_to(image)
        labels = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        (folder / "labels" / f"{index:06}.txt").symlink_to(labels)
    content = {"path": str(folder), "train": "images", "names": list(original.names)}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process's share of memory, by kind; the pack apart."""
    found = {"private": 0, "pack": 0, "slots": 0, "shared files": 0}
    kind = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            name = rest[4] if len(rest) > 4 else ""
            is_file = name.startswith("/")
            kind = "shared files" if is_file else "private"
            kind = "pack" if name.endswith("/items.bin") else kind
            kind = "slots" if name.startswith("/memfd:") else kind
        elif first == "Pss:":
            found[kind] += int(rest[0]) * 1024
        elif first == "Pss_Dirty:" and kind == "shared files":
            # Written pages of a mapped library are this process's own.
            found["shared files"] -= int(rest[0]) * 1024
            found["private"] += int(rest[0]) * 1024
    return found


def children_of(pid: int) -> list[int]:
    """Its worker processes."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start(numbers: list[int], data: Path, packs: Path) -> subprocess.Popen[str]:
    """A rank."""
    command = [sys.executable, "-c", RANK, *map(str, numbers), str(data), str(packs)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(rank: subprocess.Popen[str], key: str) -> str:
    """What follows `key` in what a rank prints."""
    for line in rank.stdout or ():
        if line.startswith(key):
            return line.removeprefix(key)
    raise RuntimeError(f"a rank ended with code {rank.wait()} before it printed {key}")


def measure(
    asked: argparse.Namespace, num_ranks: int, num_workers: int, data: Path, packs: Path
) -> dict[str, dict[str, int]]:
    """Bytes by kind, summed over the ranks and over their workers."""
    ranks = []
    for rank in range(num_ranks):
        numbers = [asked.imgsz, asked.global_batch, num_ranks, rank, num_workers, asked.batches, 0]
        ranks.append(start(numbers, data, packs))
    for rank in ranks:
        line_of(rank, "DRAWN")
    workers = [child for rank in ranks for child in children_of(rank.pid)]
    found = {}
    for name, pids in (("ranks", [rank.pid for rank in ranks]), ("workers", workers)):
        parts = [memory_of(pid) for pid in pids]
        found[name] = {kind: sum(part[kind] for part in parts) for kind in memory_of(ranks[0].pid)}
    for rank in ranks:
        rank.communicate("\n")
    return found


def slopes(asked: argparse.Namespace, data: Path, packs: Path) -> dict[str, float]:
    """Bytes by which a rank, and that of its workers that grows most, grow in 1,000 batches."""
    numbers = [asked.imgsz, asked.global_batch, asked.ranks, 0, asked.workers, asked.slope]
    rank = start([*numbers, asked.slope], data, packs)
    line_of(rank, "DRAWN")
    print("", file=rank.stdin, flush=True)
    table = np.array(json.loads(line_of(rank, "WATCHED")), dtype=float)
    rank.communicate()
    lines = np.polyfit(np.arange(len(table)) * 50, table, 1)[0] * 1000
    return {"a rank": lines[0], "a worker": max(lines[1:], default=math.nan)}


def memory_of_torch() -> int:
    """Private bytes of a process that has imported torch and numpy, and no more."""
    program = "import torch, sys; print('DRAWN', flush=True); sys.stdin.readline()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line_of(process, "DRAWN")
    found = memory_of(process.pid)["private"]
    process.communicate("\n")
    return found


def main() -> None:
    """Runs what was asked for and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="a data.yaml of YOLO text labels")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--global_batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--slope", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.images, asked.imgsz, asked.ranks, asked.workers = 32, 64, 2, 1
        asked.batches, asked.slope = 2, 101
    elif not asked.data:
        parser.error("--data DATA.yaml is missing: a data set of YOLO text labels")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asked.data = asked.data or draw_data(str(folder), asked.images)
        packs = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        data = repeated(asked.data, asked.images, folder / "set")
        place = cache_place("ram", str(packs), 2, free_on_host)
        kept = stack.enter_context(cached(open_dataset(str(data), "train"), asked.imgsz, place))
        assert isinstance(kept, CachedImages)
        pack = kept.pack.num_bytes
        found = {
            "one process": measure(asked, 1, 0, data, packs),
            f"{asked.ranks} ranks x {asked.workers} workers": measure(
                asked, asked.ranks, asked.workers, data, packs
            ),
        }
        growth = slopes(asked, data, packs)
    torch = memory_of_torch()

    print(f"{asked.images} images at {asked.imgsz}, {asked.global_batch} an update; MB")
    print(
        "| | pack | ranks: own | workers: own | slots | libraries | sum | ratio | without torch |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    sums = {}
    for name, parts in found.items():
        ranks, workers = parts["ranks"], parts["workers"]
        both = {kind: ranks[kind] + workers[kind] for kind in ranks}
        sums[name] = pack + both["private"] + both["slots"] + both["shared files"]
        numbers = (pack, ranks["private"], workers["private"], both["slots"], both["shared files"])
        cells = " | ".join(f"{value / 1e6:,.0f}" for value in (*numbers, sums[name]))
        own = sums[name] - torch * (1 if name == "one process" else asked.ranks)
        beside = own / (sums["one process"] - torch)
        print(f"| {name} | {cells} | {sums[name] / sums['one process']:.3f} | {beside:.3f} |")
    print(f"\n| growth in 1,000 batches, from {asked.slope} | MB |\n|---|---|")
    for name, value in growth.items():
        print(f"| {name} | {value / 1e6:.2f} |")
    content = {
        **vars(asked),
        "pack": pack,
        "torch": torch,
        "bytes": found,
        "sums": sums,
        "growth": growth,
    }
    write_results(__file__, content, asked.smoke)


if __name__ == "__main__":
    main()
