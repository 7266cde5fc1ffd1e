import pickle

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
