"""One process per host reads the labels, and all ranks train on the same."""

import collections
import os

import pytest

from tests.cluster.test_cache import make_set, options
from tests.conftest import REPOSITORY, needs_mpi, run_job

COUNTED = str(REPOSITORY / "tests" / "cluster" / "programs" / "opens")


def counted_job(num_ranks, arguments, folder, launcher="mpirun"):
    """What the job printed, and how often each label file was opened by which process."""
    path = os.pathsep.join([COUNTED, str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    notes = folder / "opens.txt"
    done = run_job(num_ranks, arguments, launcher, PYTHONPATH=path, OPENS=str(notes))
    opens = collections.defaultdict(collections.Counter)
    for line in notes.read_text().splitlines() if notes.is_file() else []:
        process, _, file = line.partition(" ")
        opens[file][process] += 1
    return done, opens


@needs_mpi
@pytest.mark.parametrize("launcher", ["mpirun", pytest.param("torchrun", marks=pytest.mark.long)])
def test_three_ranks_open_each_label_file_once(tmp_path, launcher):
    data = make_set(tmp_path / "set")
    (tmp_path / "set" / "labels" / "small.txt").write_text("0 0.5 0.5 0.4 0.4\n0 0.9 0.5 0.4 0.4\n")
    warnings = []
    for size in (1, 3):
        output = tmp_path / f"run{size}"
        once = ("--eval.every", "0", "--global_batch", "3")
        done, opens = counted_job(size, options(data, output, *once), tmp_path, launcher)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(opens) == 6
        assert {sum(of_file.values()) for of_file in opens.values()} == {1}
        assert len({process for of_file in opens.values() for process in of_file}) == 1
        (tmp_path / "opens.txt").unlink()
        warnings.append(done.stdout.count("boxes partly outside the image, clipped: 1"))
    assert warnings == [1, 1]


@needs_mpi
def test_evaluation_reads_once_too(tmp_path):
    data = make_set(tmp_path / "set")
    done = run_job(1, options(data, tmp_path / "run", "--eval.every", "0"))
    assert done.returncode == 0, done.stdout + done.stderr
    weights = str(tmp_path / "run" / "checkpoints" / "last.pt")
    arguments = ["-m", "hvd_yolo.evaluate", "--weights", weights, "--workers", "0"]
    done, opens = counted_job(2, arguments, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {sum(of_file.values()) for of_file in opens.values()} == {1}


@needs_mpi
def test_what_the_reader_refuses_is_one_message_of_all(tmp_path):
    data = make_set(tmp_path / "set")
    for label in (tmp_path / "set" / "labels").iterdir():
        label.unlink()
    done, _ = counted_job(3, options(data, tmp_path / "run"), tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("no image of the train split has a label file") == 1
    assert "on rank" not in done.stderr


@needs_mpi
@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_ranks_get_what_they_would_read_and_read_it_where_they_find_no_way(tmp_path):
    """No way, as in a container of its own; here in a network namespace of its own."""
    data = str(make_set(tmp_path / "set"))
    program = ["-m", "tests.cluster.programs.read_once", data]
    done = run_job(3, program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(done.stdout.split()) == ["0:read", "1:got", "2:read"]
