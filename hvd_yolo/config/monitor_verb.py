"""The options of `python -m hvd_yolo.monitor`."""

from dataclasses import dataclass


@dataclass
class MonitorConfig:
    """Show what the ranks of a run do, from its files, on any host that sees its folder.

    Args:
        run: folder of the run, or as a plain argument: monitor RUN.
        once: show one table and end; so it does too where standard output is no terminal.
        every: seconds between two looks.
    """

    run: str = ""
    once: bool = False
    every: float = 2.0
