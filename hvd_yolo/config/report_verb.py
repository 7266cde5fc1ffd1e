"""The options of `python -m hvd_yolo.report`."""

from dataclasses import dataclass


@dataclass
class ReportVerbConfig:
    """Draw the plots of a run and write its report.html, or one page that compares several runs.

    Args:
        runs: folders of runs, comma separated, or as plain arguments: report runs/a runs/b.
        output: file to write; empty: report.html in the run's folder, and for several runs
            comparison.html beside the first.
    """

    runs: str = ""
    output: str = ""
