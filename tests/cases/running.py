"""Run the commands of the cases, and compare what a data set is read as with what it holds."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hvd_yolo.data import UnreadableImage, open_dataset
from hvd_yolo.data.dataset import load_sample
from tests.conftest import REPOSITORY, job_environment

# Corners, in pixels: six digits of a share of 160 are well below it.
TOLERANCE = 0.01


class Done(NamedTuple):
    """A command that has ended: its exit code, and what it printed to both streams, in order."""

    command: str
    code: int
    text: str

    @property
    def before_first_update(self):
        return re.split(r"^update \d", self.text, maxsplit=1, flags=re.MULTILINE)[0]


class Cases:
    """The folder of all cases, and the table of their commands."""

    def __init__(self, folder):
        self.folder = folder
        table = json.loads((folder / "cases.json").read_text())
        self._commands = {row["name"]: row["commands"] for row in table}
        self._done = {}

    def run(self, name):
        """Run the commands of a case one after the other, once. None may print a traceback."""
        if name not in self._done:
            self._done[name] = [self._run(command) for command in self._commands[name]]
        for done in self._done[name]:
            assert "Traceback" not in done.text, f"{done.command}\n{done.text[-3000:]}"
        return self._done[name]

    def _run(self, command):
        done = subprocess.run(
            ["bash", "-c", f". ./verbs.sh; {command}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            cwd=self.folder,
            env=job_environment(PYTHONPATH=str(REPOSITORY), PYTHONUNBUFFERED="1"),
        )
        return Done(command, done.returncode, done.stdout)

    def path(self, name):
        """What a command names as the data of a case: its data.yaml, or its folder."""
        file = self.folder / name / "data.yaml"
        return str(file if file.is_file() else file.parent)

    def expected(self, name):
        return json.loads((self.folder / name / "expected.json").read_text())

    def run_folder(self, name):
        return self.folder / "runs" / name

    def results(self, name):
        """The detections that a command wrote for a scorer."""
        return json.loads((self.folder / "runs" / name).read_text())


def assert_code(done, *codes):
    assert done.code in codes, f"{done.command}: exit {done.code}\n{done.text[-3000:]}"


def assert_says(done, *patterns, text=None):
    """Each pattern is found, in capitals or not; `text`: where, by default in all of it."""
    text = done.text if text is None else text
    for pattern in patterns:
        assert re.search(pattern, text, re.IGNORECASE), (
            f"{done.command}: nothing like {pattern!r} in\n{text[-3000:]}"
        )


def assert_refused(done, *patterns):
    """Exit code 2, one message of the product's, and that says all of the patterns."""
    assert_code(done, 2)
    messages = done.text.split("hvd_yolo: error:")[1:]
    assert len(messages) == 1, done.text
    assert_says(done, *patterns, text=messages[0])


def assert_reads(cases, name, path=None):
    """Names and boxes are those of expected.json; path: of the data, where it is not usual."""
    expected = cases.expected(name)
    for split, images in expected["splits"].items():
        dataset = open_dataset(path or cases.path(name), split)
        assert list(dataset.names) == expected["names"]
        assert_same_boxes(boxes_of(dataset, cases.folder / name), images)


def boxes_of(dataset, folder):
    """{file below the folder: rows of label, x1, y1, x2, y2}, of the images that can be read."""
    found = {}
    for index in range(len(dataset)):
        try:
            sample = load_sample(dataset, index)
            assert sample.image.shape == (sample.height, sample.width, 3)
        except UnreadableImage:
            continue
        # As named: an image may be a link to one that lies elsewhere.
        place = os.path.relpath(str(dataset.files[index]), folder)
        file = Path(place).as_posix()
        assert file not in found, f"{file} is there twice"
        found[file] = np.column_stack((sample.labels, sample.boxes)).tolist()
    return found


def assert_same_boxes(found, expected):
    assert found.keys() == expected.keys()
    for file, rows in expected.items():
        assert are_same_boxes(found[file], rows), f"{file}: {found[file]}, expected {rows}"


def are_same_boxes(found, expected):
    """Whether both hold the same rows [label, x1, y1, x2, y2], in any order."""
    left = [np.array(row) for row in found]
    for row in expected:
        near = [
            place
            for place, other in enumerate(left)
            if other[0] == row[0] and np.abs(other - row).max() <= TOLERANCE
        ]
        if not near:
            return False
        del left[near[0]]
    return not left
