"""What a teacher is worth: a student with and without, in turn for each seed, and the teacher.

    python benchmarks/distillation.py --data .../bccd/data.yaml
    python benchmarks/distillation.py --data coco.yaml --imgsz 640 --epochs 300 --ranks 8 \\
        --teacher runs/l/checkpoints/best.pt --student yolov8s --options "--train.amp bf16"

Trains the teacher first if there is none, with the same images an update and as many epochs. Prints
a table and writes benchmarks/distillation.json. The runs lie in --folder; those that are complete
there are not made again, one that was broken off is resumed. `--distill "--distill.box 3"` tries
other gains: with a --folder of its own, or the old runs would count. --smoke: one epoch of a few
drawn images.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import write_results


def last_score(run: Path, epochs: int) -> dict[str, float] | None:
    """AP after the last epoch, and the seconds of the run's training; None before."""
    file = run / "metrics.jsonl"
    lines = [json.loads(x) for x in file.read_text().splitlines()] if file.is_file() else []
    scores = [line for line in lines if line["kind"] == "eval" and line["epoch"] >= epochs]
    if not scores:
        return None
    seconds = next(line["seconds"] for line in reversed(lines) if line["kind"] == "train")
    return {"AP": scores[-1]["AP"], "AP50": scores[-1]["AP50"], "seconds": seconds}


def trained(asked: argparse.Namespace, run: Path, model: str, *options: str) -> dict[str, float]:
    """The score of a run, which is made unless it is there."""
    found = last_score(run, asked.epochs)
    if found:
        return found
    options = (
        "-m", "hvd_yolo.train", "--output", str(run), "--data", asked.data, "--model", model,
        "--imgsz", str(asked.imgsz), "--epochs", str(asked.epochs), "--global_batch",
        str(asked.batch), "--eval.every", str(asked.epochs), *asked.options.split(), *options,
    )  # fmt: skip
    launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np"]
    command = [*launcher, str(asked.ranks)] if asked.ranks > 1 else []
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(run.with_suffix(".log"), "ab") as log:
        subprocess.run(
            [*command, sys.executable, *options],
            check=True, stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    return last_score(run, asked.epochs)


def show(asked: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> None:
    """The table."""
    seeds = asked.seeds.split(",")
    print(
        f"\n{asked.student} taught by {asked.teacher or asked.teacher_model}, {asked.data}, "
        f"{asked.imgsz} px, {asked.epochs} epochs, {asked.batch} images an update, "
        f"{asked.ranks} ranks {asked.distill}\n"
    )
    print("| AP | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | spread | seconds |")
    print("|---" * (len(seeds) + 4) + "|")
    for name, runs in found.items():
        values = [run["AP"] for run in runs]
        cells = [f"{value:.3f}" for value in values] + [""] * (len(seeds) - len(values))
        spread = f"{max(values) - min(values):.3f}" if len(values) > 1 else ""
        mean, seconds = (statistics.mean(run[key] for run in runs) for key in ("AP", "seconds"))
        print(f"| {name} | {' | '.join(cells)} | {mean:.4f} | {spread} | {seconds:.0f} |")
    gains = [
        taught["AP"] - plain["AP"]
        for plain, taught in zip(found["plain"], found["taught"], strict=True)
    ]
    print(f"\ntaught - plain: {statistics.mean(gains):+.4f}, by seed ", end="")
    print(", ".join(f"{gain:+.3f}" for gain in gains))


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="")
    parser.add_argument("--student", default="yolov8n")
    parser.add_argument("--teacher", default="", help="checkpoint; none: trained here")
    parser.add_argument("--teacher_model", default="yolov8s", help="of the one trained here")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16, help="images an update")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--options", default="", help="of all runs, in one string")
    parser.add_argument("--distill", default="", help="more options of the taught ones")
    parser.add_argument("--folder", default="runs/distillation")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.smoke:
        asked.data, asked.imgsz, asked.epochs, asked.ranks = "shapes:16", 64, 1, 1
        asked.teacher_model, asked.seeds = asked.student, "0"
    if not asked.data:
        parser.error("--data DATA.yaml is missing: the data set to train on")
    with tempfile.TemporaryDirectory() as temporary:
        compare(asked, Path(temporary if asked.smoke else asked.folder))


def compare(asked: argparse.Namespace, folder: Path) -> None:
    """Makes the runs that are missing in the folder and prints the table."""
    found: dict[str, list[dict[str, float]]] = {}
    teacher = asked.teacher or str(folder / "teacher" / "checkpoints" / "last.pt")
    if not asked.teacher:
        found["teacher"] = [trained(asked, folder / "teacher", asked.teacher_model, "--seed", "0")]
    found |= {"plain": [], "taught": []}
    taught = ("--teacher", teacher, *asked.distill.split())
    for seed in asked.seeds.split(","):
        for name, options in (("plain", ()), ("taught", taught)):
            run = folder / f"{name}{seed}"
            found[name].append(trained(asked, run, asked.student, "--seed", seed, *options))
            print(f"{name}, seed {seed}: AP {found[name][-1]['AP']:.4f}", flush=True)
    show(asked, found)
    write_results(__file__, {**vars(asked), "found": found}, asked.smoke)


if __name__ == "__main__":
    main()
