"""YOLOv8n from scratch on BCCD: two Horovod ranks, and Ultralytics beside them, in turn.

    python benchmarks/bccd.py --data .../bccd/data.yaml --peer PYTHON --epochs 30

PYTHON is the interpreter of an environment with `ultralytics` in it; without --peer only hvd_yolo
is measured. Prints a table and writes benchmarks/bccd.json. Times are those of whole commands.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = """
import ultralytics, sys
model = ultralytics.YOLO("yolov8n.yaml")
model.train(data=sys.argv[1], epochs=int(sys.argv[2]), imgsz=320, batch=16, seed=0, device="cpu",
            pretrained=False, project=sys.argv[3], name="peer", exist_ok=True)
"""


def timed(command: list[str], log: Path) -> float:
    """Seconds of a command that must succeed; what it prints goes to `log`."""
    started = time.monotonic()
    with open(log, "wb") as out:
        subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT)
    return time.monotonic() - started


def run_ours(data: str, epochs: int, folder: Path) -> tuple[float, dict[int, tuple[float, float]]]:
    """Seconds, and (AP50, AP) by epoch."""
    seconds = timed(
        [
            str(Path(sys.executable).with_name("horovodrun")), "-np", "2", "-H", "localhost:2",
            sys.executable, "-m", "hvd_yolo.train", "--data", data, "--model", "yolov8n",
            "--imgsz", "320", "--epochs", str(epochs), "--global_batch", "16",
            "--output", str(folder / "ours"),
        ],
        folder / "ours.log",
    )  # fmt: skip
    lines = [json.loads(x) for x in (folder / "ours" / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "eval"]
    return seconds, {round(line["epoch"]): (line["AP50"], line["AP"]) for line in found}


def run_peer(
    python: str, data: str, epochs: int, folder: Path
) -> tuple[float, dict[int, tuple[float, float]]]:
    """Seconds, and (AP50, AP) by epoch, both as Ultralytics measures them."""
    command = [python, "-c", PEER, data, str(epochs), str(folder)]
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
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", default="")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bccd-"))
    results = {"hvd_yolo": run_ours(options.data, options.epochs, folder)}
    if options.peer:
        results["ultralytics"] = run_peer(options.peer, options.data, options.epochs, folder)

    print("| | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for epoch in sorted({1, *range(5, options.epochs + 1, 5), options.epochs}):
        cells = ["{:.3f} / {:.3f}".format(*curve[epoch]) for _, curve in results.values()]
        print(f"| epoch {epoch}, AP50 / AP | " + " | ".join(cells) + " |")
    print("| seconds | " + " | ".join(f"{seconds:.0f}" for seconds, _ in results.values()) + " |")
    if options.peer:
        ratio = results["hvd_yolo"][0] / results["ultralytics"][0]
        print(f"\nwall time of hvd_yolo over ultralytics: {ratio:.2f}")
    content = {name: {"seconds": s, "curve": curve} for name, (s, curve) in results.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
