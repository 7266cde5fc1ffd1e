"""A cache changes nothing but the time: whole runs give the same losses with it and without, also
where it is made by several jobs at once, or after one that was killed."""

import os
import signal
import subprocess
import time

import psutil
import pytest
import yaml

from tests.cluster.test_resume import without_times
from tests.conftest import REPOSITORY, command_for, job_environment, needs_mpi, run_job
from tests.data.small_files import encode, picture, with_exif

IMAGES = {
    "broken.jpg": encode(".jpg", picture(500, 300))[:-800],
    "large.jpg": encode(".jpg", picture(1600, 1200)),
    "plain.png": encode(".png", picture(120, 90)),
    "small.jpg": encode(".jpg", picture(40, 30)),
    "turned.jpg": with_exif(encode(".jpg", picture(300, 200)), 6),
    "wide.jpg": encode(".jpg", picture(200, 50)),
}


def make_set(folder, num_large=1):
    """The images, the large one so many times; those to evaluate are those to train on."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    names = list(IMAGES)
    for name, content in IMAGES.items():
        (folder / "images" / name).write_bytes(content)
    for number in range(1, num_large):
        names.append(f"large{number}.jpg")
        (folder / "images" / names[-1]).hardlink_to(folder / "images" / "large.jpg")
    for name in names:
        label = (folder / "labels" / name).with_suffix(".txt")
        label.write_text("0 0.4 0.5 0.5 0.6\n1 0.7 0.6 0.3 0.2\n")
    content = {"path": str(folder), "train": "images", "val": "images", "names": ["a", "b"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def options(data, output, *more):
    common = (
        "--imgsz", "64", "--global_batch", "4", "--max_updates", "3", "--report.every", "1",
        "--workers", "0",
    )  # fmt: skip
    return ["-m", "hvd_yolo.train", "--data", str(data), "--output", str(output), *common, *more]


def start(num_ranks, arguments):
    return subprocess.Popen(
        command_for(num_ranks, arguments), cwd=REPOSITORY, env=job_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A data set, the metrics of a run without a cache, and how often that named broken.jpg."""
    folder = tmp_path_factory.mktemp("small")
    data = make_set(folder / "set")
    done = run_job(1, options(data, folder / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = without_times(folder / "run")
    assert [line["kind"] for line in metrics] == ["train", "train", "eval", "train", "eval"]
    assert done.stdout.count("broken.jpg: ") > 0
    return data, metrics, done.stdout.count("broken.jpg: ")


@pytest.mark.parametrize(
    ("kind", "workers"), [("none", (2,)), ("ram", (2,)), ("disk", (0, 2)), ("stage", (2,))]
)
def test_no_cache_changes_a_bit(tmp_path, small, kind, workers):
    """Of train and val, which are the same images, so that one process has the pack twice."""
    data, expected, num_broken = small
    packs = str(tmp_path / "packs")
    kept = {"none": (), "stage": ("--loader.stage", packs)}.get(
        kind, ("--loader.cache", kind, "--loader.folder", packs)
    )
    for number in workers:
        folder = tmp_path / f"run{number}"
        done = run_job(1, options(data, folder, *kept, "--workers", str(number)))
        assert done.returncode == 0, done.stdout + done.stderr
        assert without_times(folder) == expected
        assert done.stdout.count("broken.jpg: ") == num_broken
        is_first = number == workers[0]
        assert done.stdout.count("packing 6 images") == (
            kind == "ram" or (kind != "none" and is_first)
        )
    if kind == "ram":
        assert list((tmp_path / "packs").iterdir()) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A data set that takes a second to pack, and the metrics of a run without a cache."""
    folder = tmp_path_factory.mktemp("large")
    data = make_set(folder / "set", num_large=300)
    done = run_job(1, options(data, folder / "run", "--eval.every", "0"))
    assert done.returncode == 0, done.stdout + done.stderr
    return data, without_times(folder / "run")


def test_four_jobs_started_at_once_make_one_cache(tmp_path, large):
    data, expected = large
    more = ("--eval.every", "0", "--loader.cache", "disk", "--loader.folder")
    jobs = [
        start(1, options(data, tmp_path / f"run{i}", *more, str(tmp_path / "packs")))
        for i in range(4)
    ]
    outputs = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, outputs
    assert sum(output.count("packing 305 images") for output in outputs) == 1
    assert all("loader.cache: 305 images" in output for output in outputs)
    assert all(without_times(tmp_path / f"run{i}") == expected for i in range(4))


@needs_mpi
def test_a_job_killed_while_it_packs_is_begun_anew(tmp_path, large):
    data, expected = large
    packs = tmp_path / "packs"
    more = ("--eval.every", "0", "--loader.cache", "ram", "--loader.folder", str(packs))
    job = start(2, options(data, tmp_path / "killed", *more))
    deadline = time.monotonic() + 60
    while not list(packs.glob("*.unfinished-*/table.npy")):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    family = [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]
    for process in family:
        os.kill(process.pid, signal.SIGKILL)
    job.communicate()
    assert list(packs.glob("*.unfinished-*"))
    done = run_job(1, options(data, tmp_path / "run", *more))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("packing 305 images") == 1
    assert without_times(tmp_path / "run") == expected
    assert list(packs.iterdir()) == []


def test_no_room_for_a_cache_is_one_message_with_code_2(tmp_path, small):
    data = small[0]
    (tmp_path / "file").touch()
    kept = ("--loader.cache", "disk", "--loader.folder", str(tmp_path / "file"))
    done = run_job(1, options(data, tmp_path / "run", *kept))
    assert done.returncode == 2
    (told,) = done.stderr.strip().splitlines()
    assert told.startswith("hvd_yolo: error: loader.cache: a pack cannot be made or used in")
    assert told.endswith("or name another with --loader.folder, take a smaller imgsz, or "
                         "--loader.cache none")  # fmt: skip
