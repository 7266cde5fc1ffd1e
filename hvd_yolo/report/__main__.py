"""`python -m hvd_yolo.report RUN [RUN ...]`: the plots and report.html of a run, or a page that
compares several, from their folders alone."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo import cli
from hvd_yolo.config import parse
from hvd_yolo.config.report_verb import ReportVerbConfig
from hvd_yolo.errors import InputError
from hvd_yolo.report.page import write_report


def main(argv: Sequence[str]) -> None:
    """Writes the page and says where it is."""
    folders = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    argv = [*(["--runs", ",".join(folders)] if folders else []), *argv[len(folders) :]]
    config = parse(ReportVerbConfig, argv, "hvd_yolo.report")
    runs = [Path(part.strip()) for part in config.runs.split(",") if part.strip()]
    if not runs:
        raise InputError("runs is missing: name the folder of a run, report runs/exp")
    if config.output:
        output = Path(config.output)
    elif len(runs) > 1:
        output = runs[0].resolve().parent / "comparison.html"
    else:
        output = runs[0] / "report.html"
    with cli.output_file("output", str(output)) as file:
        print(write_report(runs, file), flush=True)


if __name__ == "__main__":
    cli.run(main)
