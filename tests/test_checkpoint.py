import itertools
import os
import pickle
import random
import signal
import subprocess
import time

import pytest
import torch

from hvd_yolo import checkpoint
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model


def content(**changes):
    weights = build_model("yolov8n", 3).state_dict()
    return {"config": "", "names": ["a"], "weights": weights, **changes}


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    saved = content(training={"updates": 7, "best": 0.1 + 0.2, "window": torch.rand(5).double()})
    checkpoint.save(tmp_path / "last.pt", saved)
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert loaded["training"]["updates"] == 7
    assert loaded["training"]["best"] == 0.1 + 0.2
    assert torch.equal(loaded["training"]["window"], saved["training"]["window"])
    assert all(torch.equal(loaded["weights"][k], v) for k, v in saved["weights"].items())
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


class Unsaveable:
    def __reduce__(self):
        raise RuntimeError("the disk is full, say")


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    checkpoint.save(tmp_path / "last.pt", content(metrics_bytes=1))
    with pytest.raises(RuntimeError, match="disk is full"):
        checkpoint.save(tmp_path / "last.pt", content(metrics_bytes=Unsaveable()))
    assert checkpoint.load(tmp_path / "last.pt")["metrics_bytes"] == 1


def test_what_is_no_checkpoint_is_refused(tmp_path):
    file = tmp_path / "last.pt"
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load(file)
    checkpoint.save(file, content())
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(file)
    torch.save({"model": 1}, file)
    with pytest.raises(InputError, match="not a checkpoint of hvd_yolo"):
        checkpoint.load(file)


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/hvd_yolo_bomb_went_off", "w"))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    file = tmp_path / "evil.pt"
    for write in (torch.save, lambda bomb, f: f.write_bytes(pickle.dumps(bomb))):
        write({"format": Bomb()}, file)
        with pytest.raises(InputError, match="cannot be read"):
            checkpoint.load(file)


def test_so_many_are_kept_and_a_damaged_one_is_passed_over(tmp_path, caplog):
    file = tmp_path / "last.pt"
    for number in range(5):
        checkpoint.save(file, content(metrics_bytes=number), keep=3)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["last-1.pt", "last-2.pt", "last.pt"]
    kept = [checkpoint.load(tmp_path / name)["metrics_bytes"] for name in names]
    assert kept == [3, 2, 4]
    # One bit, in the midst of the weights.
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(InputError, match=r"last\.pt cannot be read: .* is damaged"):
        checkpoint.load(file)
    assert checkpoint.load_newest(file)["metrics_bytes"] == 3
    assert "last.pt cannot be read" in caplog.text
    assert "going on from" in caplog.text
    assert (tmp_path / "last.pt.damaged").exists()
    assert not file.exists()
    (tmp_path / "last-1.pt").write_bytes(b"")
    assert checkpoint.is_there(file)
    assert checkpoint.load_newest(file)["metrics_bytes"] == 2
    (tmp_path / "last-2.pt").unlink()
    with pytest.raises(InputError, match=r"last\.pt: no such file"):
        checkpoint.load_newest(file)


def test_a_checkpoint_is_never_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    for name in ("last.pt", ".last.pt.writing"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    checkpoint.save(tmp_path / "last.pt", content())
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "last.pt").is_symlink()
    assert (tmp_path / "last.pt").stat().st_mode & 0o777 == 0o644


def test_100_kills_in_a_save_leave_a_checkpoint_that_is_whole(tmp_path):
    file, moments = tmp_path / "last.pt", random.Random(0)
    saved = content(metrics_bytes=0)
    started = time.monotonic()
    checkpoint.save(file, saved, keep=2)
    length, newest, in_midst = time.monotonic() - started, 0, 0
    for _ in range(100):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for number in itertools.count(newest + 1):
                os.write(writer, b"[")
                checkpoint.save(file, {**saved, "metrics_bytes": number}, keep=2)
                os.write(writer, b"]")
        os.close(writer)
        told = os.read(reader, 1)
        time.sleep(moments.uniform(0, 1.5 * length))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told += os.read(reader, 1000)
        os.close(reader)
        in_midst += told.endswith(b"[")
        found = checkpoint.load_newest(file)["metrics_bytes"]
        assert newest + told.count(b"]") <= found <= newest + told.count(b"[")
        newest = found
    assert in_midst > 50
    left = {x.name for x in tmp_path.iterdir()} - {"last.pt", "last-1.pt"}
    assert left <= {".last.pt.writing", ".last-1.pt.writing"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB: three checkpoints of a YOLOv8n."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mounted = tmp_path / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", mounted], check=True)
    yield mounted
    subprocess.run(["umount", mounted], check=True)


def test_a_full_disk_is_told_with_what_is_needed(small_disk):
    file = small_disk / "last.pt"
    checkpoint.save(file, content(metrics_bytes=1), keep=2)
    (small_disk / "filler").write_bytes(bytes(22_000_000))
    message = r"last\.pt cannot be written: No space left .*; it needs 12 MB, and \d+ MB are free"
    with pytest.raises(InputError, match=message):
        checkpoint.save(file, content(metrics_bytes=2), keep=2)
    assert checkpoint.load(file)["metrics_bytes"] == 1
    assert sorted(file.name for file in small_disk.iterdir()) == ["filler", "last.pt"]
    # The oldest makes room for the newest.
    (small_disk / "filler").write_bytes(bytes(10_000_000))
    for number in (3, 4):
        checkpoint.save(file, content(metrics_bytes=number), keep=2)
    assert checkpoint.load(file)["metrics_bytes"] == 4
    assert checkpoint.load(small_disk / "last-1.pt")["metrics_bytes"] == 3
