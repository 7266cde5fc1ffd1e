"""The report of benchmarks/gpu_check.py: Markdown and JSON."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check_parts import Outcome
from benchmarks.results import REPOSITORY, commit

BEGIN, END = "<!-- gpu-check: begin -->", "<!-- gpu-check: end -->"


def write_report(
    folder: Path,
    outcomes: dict[str, Outcome],
    seconds: dict[str, float],
    sizes: dict[str, Any],
    device: str,
    is_pretend: bool,
) -> Path:
    """Writes into the folder gpu_check.json and the part of gpu.md between the marks; on a pretend
    device files of their own, which say so. Returns the Markdown file."""
    name = "gpu_check.pretend" if is_pretend else "gpu_check"
    content = {
        "commit": commit(REPOSITORY), "is_pretend": is_pretend, "device": device,
        "torch": torch.__version__, "python": platform.python_version(), "sizes": sizes,
        "seconds": seconds, "parts": {part: vars(found) for part, found in outcomes.items()},
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    text = f"{BEGIN}\n{as_markdown(content)}{END}\n"
    if is_pretend:
        file = folder / f"{name}.md"
        file.write_text(text)
        return file
    file = folder / "gpu.md"
    before, mark, rest = file.read_text().partition(BEGIN)
    after = rest.partition(END)[2].lstrip("\n")
    file.write_text(
        f"{before.rstrip()}\n\n{text}{after}" if mark else f"{before.rstrip()}\n\n{text}"
    )
    return file


def as_markdown(content: dict[str, Any]) -> str:
    """What was found, as a section."""
    title = "PRETEND DEVICE: no figure here tells of a GPU" if content["is_pretend"] else "Measured"
    sizes = content["sizes"]
    lines = [
        f"## {title}\n",
        f"`make gpu-check` at commit `{content['commit'] or 'unknown'}`, {content['device']}, "
        f"torch {content['torch']}; {sizes['imgsz']} px, {sizes['batch']} images, "
        f"{sizes['steps']} updates after {sizes['warmup']}; images/s with batches made before, "
        "synchronizations with those of a loader.\n",
        "| part | | seconds | |\n|---|---|---|---|",
    ]
    for name, part in content["parts"].items():
        detail = part["detail"].replace("|", "/")
        lines.append(f"| {name} | {part['status']} | {content['seconds'][name]:.0f} | {detail} |")
    lines += _rates(content["parts"].get("rates", {"rows": []})["rows"])
    lines += _syncs(content["parts"].get("syncs", {"rows": []})["rows"])
    return "\n".join(lines) + "\n"


def _rates(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = ["\n| images/s (GB reserved) | " + " | ".join(variants) + " |"]
    lines.append("|---" * (len(variants) + 1) + "|")
    for model in models:
        cells = [_cell(rows, model, variant) for variant in variants]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


def _cell(rows: list[dict[str, Any]], model: str, variant: str) -> str:
    for row in rows:
        if (row["model"], row["variant"]) == (model, variant) and "images_per_s" in row:
            return f"{row['images_per_s']:.1f} ({row['memory'] / 1e9:.1f})"
    return "-"


def _syncs(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = "| model | host-device synchronizations of an update | of which | launches |"
    lines = [f"\n{head}\n|---|---|---|---|"]
    for row in rows:
        named = ", ".join(f"{count:.3g} {name}" for name, count in row.get("by_name", {}).items())
        cells = [row["model"], f"{row['syncs']:.3g}" if "syncs" in row else "-"]
        cells += [named or row.get("why", ""), f"{row.get('launches', 0):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
