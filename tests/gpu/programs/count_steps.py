"""`python -m tests.gpu.programs.count_steps FILE ARGUMENTS`: trains on the pretend device and
writes what each step costs to FILE as JSON."""

import dataclasses
import json
import sys
from pathlib import Path

from tests.gpu.steps import steps_of
from tests.pretend_cuda.counts import counted_syncs

if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    Path(file).write_text(json.dumps(dataclasses.asdict(steps_of(arguments, counted_syncs))))
