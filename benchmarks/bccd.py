"""YOLOv8n from scratch on BCCD: two Horovod ranks, and Ultralytics beside them, in turn.

    python benchmarks/bccd.py --data .../bccd/data.yaml --peer PYTHON --epochs 30

PYTHON is the interpreter of an environment with `ultralytics` in it; without --peer only hvd_yolo
is measured. Prints a table and writes benchmarks/bccd.json. Times are those of whole commands.
--smoke: one epoch of a few drawn images.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results

PEER = """
import ultralytics, sys
model = ultralytics.YOLO("yolov8n.yaml")
model.train(data=sys.argv[1], epochs=int(sys.argv[2]), imgsz=int(sys.argv[4]), batch=16,
            seed=0, device="cpu", pretrained=False, project=sys.argv[3], name="peer", exist_ok=True)
"""
# Seconds of a run, and (AP50, AP) by epoch.
Result = tuple[float, dict[int, tuple[float, float]]]


def timed(command: list[str], log: Path) -> float:
    """Seconds of a command that must succeed; what it prints goes to `log`."""
    started = time.monotonic()
    with open(log, "wb") as out:
        subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT)
    return time.monotonic() - started


def run_ours(asked: argparse.Namespace, folder: Path) -> Result:
    """Seconds, and (AP50, AP) by epoch."""
    seconds = timed(
        [
            str(Path(sys.executable).with_name("horovodrun")), "-np", "2", "-H", "localhost:2",
            sys.executable, "-m", "hvd_yolo.train", "--data", asked.data, "--model", "yolov8n",
            "--imgsz", str(asked.imgsz), "--epochs", str(asked.epochs), "--global_batch", "16",
            "--output", str(folder / "ours"),
        ],
        folder / "ours.log",
    )  # fmt: skip
    lines = [json.loads(x) for x in (folder / "ours" / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "eval"]
    return seconds, {round(line["epoch"]): (line["AP50"], line["AP"]) for line in found}


def run_peer(asked: argparse.Namespace, folder: Path) -> Result:
    """Seconds, and (AP50, AP) by epoch, both as Ultralytics measures them."""
    numbers = [str(asked.epochs), str(folder), str(asked.imgsz)]
    command = [asked.peer, "-c", PEER, asked.data, *numbers]
    seconds = timed(command, folder / "peer.log")
    with open(folder / "peer" / "results.csv", newline="") as file:
        rows = [{key.strip(): value for key, value in row.items()} for row in csv.DictReader(file)]
    return seconds, {
        int(row["epoch"]): (float(row["metrics/mAP50(B)"]), float(row["metrics/mAP50-95(B)"]))
        for row in rows
    }


def main() -> None:
    """Runs what was asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="the data.yaml of BCCD")
    parser.add_argument("--peer", default="")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.data, options.epochs, options.imgsz = "shapes:32", 1, 64
    if not options.data:
        parser.error("--data DATA.yaml is missing: the data set to train on")
    folder = Path(tempfile.mkdtemp(prefix="bccd-"))
    results = {"hvd_yolo": run_ours(options, folder)}
    if options.peer:
        results["ultralytics"] = run_peer(options, folder)

    print("| | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for epoch in sorted({1, *range(5, options.epochs + 1, 5), options.epochs}):
        cells = ["{:.3f} / {:.3f}".format(*curve[epoch]) for _, curve in results.values()]
        print(f"| epoch {epoch}, AP50 / AP | " + " | ".join(cells) + " |")
    print("| seconds | " + " | ".join(f"{seconds:.0f}" for seconds, _ in results.values()) + " |")
    if options.peer:
        ratio = results["hvd_yolo"][0] / results["ultralytics"][0]
        print(f"\nwall time of hvd_yolo over ultralytics: {ratio:.2f}")
    content = {name: {"seconds": s, "curve": curve} for name, (s, curve) in results.items()}
    write_results(__file__, content, options.smoke)


if __name__ == "__main__":
    main()
