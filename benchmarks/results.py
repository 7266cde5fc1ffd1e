"""What benchmarks share: where their results go, the commit that these name, and drawn images."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]


def write_results(script: str, content: dict[str, Any], is_smoke: bool) -> None:
    """Writes benchmarks/NAME.json and prints the commit; a smoke run, which must not replace
    figures that count, writes NAME.smoke.json.

    script: the benchmark's __file__.
    """
    measured_at = commit(REPOSITORY)
    file = Path(script).with_suffix(".smoke.json" if is_smoke else ".json")
    file.write_text(json.dumps({"commit": measured_at, **content}, indent=1, default=str) + "\n")
    print(f"\nMeasured at commit `{measured_at or 'unknown'}`.", flush=True)


def commit(checkout: Path) -> str:
    """The short hash of what is checked out, with "-dirty" where files were changed; empty where
    there is no repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()


def draw_data(folder: str, num_images: int) -> str:
    """The data.yaml of so many drawn images, written as YOLO text for every side to read."""
    output = str(Path(folder, "drawn"))
    options = ["--data", f"shapes:{num_images}", "--to", "yolo", "--output", output]
    subprocess.run(
        [sys.executable, "-m", "hvd_yolo.data", "convert", *options],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    file = Path(output, "data.yaml")
    # Ultralytics looks for a relative path in the working directory, not beside the file.
    content = yaml.safe_load(file.read_text()) | {"path": output}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(file)
