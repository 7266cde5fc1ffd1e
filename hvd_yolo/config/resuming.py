"""Which run `--resume` means: its folder, or a checkpoint in it."""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hvd_yolo.errors import InputError

logger = logging.getLogger("hvd_yolo.config")

# Folders of a run that hold checkpoints: ours, and that of Ultralytics and YOLOv5.
_CHECKPOINT_FOLDERS = ("checkpoints", "weights")
# What other trainers take for "the last run".
_SWITCHES = ("true", "false", "yes", "no", "1", "0")


def run_folder(resume: str) -> str:
    """The folder of the run that `--resume` names by its folder, by a checkpoint in it, or by the
    folder of its checkpoints. Raises InputError where there is no run."""
    path = Path(resume)
    if _is_run(path):
        return resume
    if resume.lower() in _SWITCHES:
        raise InputError(f"--resume {resume}: {_remedy()}")
    inside = path.suffix == ".pt"
    places = [path.parent] if inside else []
    holder = path.parent if inside else path
    if holder.name in _CHECKPOINT_FOLDERS:
        places.append(holder.parent)
    folder = next((place for place in places if _is_run(place)), None)
    if folder is None and inside:
        missing = " and ".join(str(_config(place)) for place in places)
        raise InputError(
            f"--resume {resume}: the file is in no run ({missing} missing); {_remedy()}. A new run "
            f"that begins with the file's weights: --weights {resume}"
        )
    if folder is None:
        raise InputError(f"--resume {resume}: no run there ({_config(path)} is missing)")
    if inside and path.name != "last.pt":
        logger.warning(
            "--resume %s: the run in %s goes on from checkpoints/last.pt, its newest state; a new "
            "run begins with this file's weights by --weights %s", resume, folder, resume,
        )  # fmt: skip
    return str(folder)


def refuse_bare_resume(argv: Sequence[str]) -> None:
    """Raises InputError for `--resume` without a value, which other trainers take for the last
    run."""
    for word, following in pairwise([*argv, "--"]):
        if word == "--resume" and following.startswith("--"):
            raise InputError(f"--resume has no value: {_remedy()}")


def _is_run(folder: Path) -> bool:
    return _config(folder).is_file()


def _config(folder: Path) -> Path:
    return folder / "config.yaml"


def _remedy() -> str:
    """What to give, with the run of ./runs that was trained last."""
    times = {
        file.parent.parent: file.stat().st_mtime
        for file in Path("runs").glob("*/checkpoints/last.pt")
        if _is_run(file.parent.parent)
    }
    newest = max(times, key=lambda folder: times[folder], default=None)
    here = f"--resume {newest} is the last one here" if newest else "as --resume runs/exp"
    return f"give the folder of the run or a checkpoint in it, {here}"
