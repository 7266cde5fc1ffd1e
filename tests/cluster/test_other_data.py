"""Hosts that see different data sets at the same path are refused before anything is trained."""

import subprocess
import sys

import pytest

from tests.cluster.conftest import write_shapes
from tests.conftest import job_environment, needs_mpi
from tests.teachers import write_teacher


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two working folders with a data set each; in the second the first label of an image is
    missing."""
    root = tmp_path_factory.mktemp("hosts")
    made = [root / name for name in ("a", "b")]
    for folder in made:
        folder.mkdir()
        write_shapes(folder / "set")
    file = next(f for f in sorted((made[1] / "set" / "labels" / "val").iterdir()) if f.read_text())
    file.write_text(file.read_text().partition("\n")[2])
    write_teacher(root / "trained.pt")
    return made


def run(folders, *arguments):
    parts = [
        ["-np", "1", "-wdir", str(folder), sys.executable, "-m", *arguments] for folder in folders
    ]
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", *parts[0], ":", *parts[1]]
    return subprocess.run(
        command, env=job_environment(), capture_output=True, text=True, timeout=120, check=False
    )


@needs_mpi
@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_another_data_set_on_one_rank_is_one_message_with_code_2(folders, verb, tmp_path):
    own = {
        "train": ("hvd_yolo.train", "--output", str(tmp_path / "run"), "--imgsz", "64"),
        "evaluate": ("hvd_yolo.evaluate", "--weights", str(folders[0].parent / "trained.pt")),
    }[verb]
    done = run(folders, *own, "--data", "set/data.yaml", "--device", "cpu")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("is not the same on all hosts: rank 0 on") == 1
    assert "but rank 1 on" in done.stderr
    assert "rsync" in done.stderr
    assert not (tmp_path / "run").exists()
