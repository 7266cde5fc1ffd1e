import builtins
import os
import pickle
import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hvd_yolo import checkpoint
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.weights import load_weights, read_weights, to_ultralytics


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


class _Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


BOMBS = {
    "os.system": _Calls(os.system, "touch went_off"),
    "builtins.exec": _Calls(builtins.exec, "open('went_off', 'w')"),
    "builtins.getattr": _Calls(getattr, "text", "upper"),
    # A pickle within a pickle.
    "pickle.loads": _Calls(pickle.loads, pickle.dumps(_Calls(os.system, "touch went_off"))),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("write", [torch.save, lambda bomb, f: f.write_bytes(pickle.dumps(bomb))])
def test_a_pickle_that_wants_to_run_code_is_refused_by_name(tmp_path, monkeypatch, name, write):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "evil.pt"
    weights = {"model": {"a": [1, {"deep": BOMBS[name]}]}}
    write(weights, file)
    module, _, function = name.rpartition(".")
    spoken = {"os": "posix", "pickle": "_?pickle"}.get(module, module)
    with pytest.raises(InputError, match=f"evil.pt.*would call {spoken}.{function}"):
        read_weights(file)
    assert not (tmp_path / "went_off").exists()


def test_a_class_whose_state_is_code_stays_inert(tmp_path):
    """BUILD and NEWOBJ, the two ways to make an object without a call, run nothing."""

    class Evil:
        def __setstate__(self, state):
            raise AssertionError("ran")

        def __getstate__(self):
            return {"a": 1}

    module = types.ModuleType("evil_module")
    module.Evil = Evil
    Evil.__module__, Evil.__qualname__ = "evil_module", "Evil"
    sys.modules["evil_module"] = module
    try:
        torch.save({"state_dict": {"w": torch.ones(3)}, "other": Evil()}, tmp_path / "a.pt")
        assert torch.equal(read_weights(tmp_path / "a.pt")["w"], torch.ones(3))
    finally:
        del sys.modules["evil_module"]


def pickled_model(state):
    """A model of classes that the reader does not have, holding `state`."""
    module = types.ModuleType("vanished_tasks")

    class Tree(nn.Module):
        pass

    Tree.__module__, Tree.__qualname__ = "vanished_tasks", "Tree"
    module.Tree = Tree
    sys.modules["vanished_tasks"] = module
    root = Tree()
    for name, value in state.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, Tree())
            node = node._modules[part]
        if value.is_floating_point():
            node.register_parameter(last, nn.Parameter(value))
        else:
            node.register_buffer(last, value)
    root.names = {0: "a"}
    root.stride = torch.tensor([8.0, 16.0, 32.0])
    return root


@pytest.mark.parametrize("name", ["yolov5nu", "yolov8n", "yolov10n", "yolo11n"])
def test_pickled_models_of_unknown_classes_give_their_tensors(tmp_path, name):
    """As checkpoints of YOLOv5 and Ultralytics are: a whole model, in half precision."""
    theirs = build_model(name, 3)
    model = pickled_model(to_ultralytics(theirs)).half()
    torch.save({"epoch": 7, "model": model, "ema": None, "optimizer": None}, tmp_path / "a.pt")
    del sys.modules["vanished_tasks"]
    torch.manual_seed(5)
    ours = build_model(name, 3)
    found = load_weights(ours, tmp_path / "a.pt")
    assert found.kept == []
    assert found.unused == []
    half = {k: v.half().float() if v.is_floating_point() else v
            for k, v in theirs.state_dict().items()}  # fmt: skip
    assert same(ours.state_dict(), half)


def test_anchors_of_yolov5_are_in_strides_there(tmp_path):
    theirs = build_model("yolov5n", 3)
    state = to_ultralytics(theirs)
    assert state["model.24.anchors"][0, 0].tolist() == [10 / 8, 13 / 8]
    torch.save(state, tmp_path / "plain.pt")
    ours = build_model("yolov5n", 3)
    ours.head.anchors.zero_()
    assert load_weights(ours, tmp_path / "plain.pt").kept == []
    assert same(ours.state_dict(), theirs.state_dict())


def test_yolox_checkpoints(tmp_path):
    """Their names, and a first kernel for BGR of 0..255."""
    theirs = build_model("yolox-s", 3).eval()
    renamed = {}
    for name, value in theirs.state_dict().items():
        new = name
        for ours, published in (
            ("backbone.stages.0.0.", "backbone.backbone.stem."),
            *((f"backbone.stages.{i}.", f"backbone.backbone.dark{i + 1}.") for i in range(1, 5)),
            ("neck.reduces.0.", "backbone.lateral_conv0."),
            ("neck.reduces.1.", "backbone.reduce_conv1."),
            ("neck.top_down.0.", "backbone.C3_p4."), ("neck.top_down.1.", "backbone.C3_p3."),
            ("neck.downs.0.", "backbone.bu_conv2."), ("neck.downs.1.", "backbone.bu_conv1."),
            ("neck.bottom_up.0.", "backbone.C3_n3."), ("neck.bottom_up.1.", "backbone.C3_n4."),
        ):  # fmt: skip
            new = new.replace(ours, published)
        for i in (1, 2, 3):
            new = new.replace(f".cv{i}.", f".conv{i}.")
        renamed[new] = value
    torch.save({"start_epoch": 300, "model": renamed, "optimizer": {}}, tmp_path / "yolox_s.pth")
    ours = build_model("yolox-s", 3).eval()
    assert load_weights(ours, tmp_path / "yolox_s.pth").kept == []
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.predict(images.flip(1) * 255).offsets
        found = ours.predict(images).offsets
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_safetensors_and_our_checkpoints(tmp_path):
    model = build_model("yolov8n", 3)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    save_file(to_ultralytics(model), tmp_path / "theirs.safetensors")
    content = {"config": "", "names": ["a"], "weights": model.state_dict(), "training": {"x": 1}}
    checkpoint.save(tmp_path / "ours.pt", content)
    for name in ("own.safetensors", "theirs.safetensors", "ours.pt"):
        torch.manual_seed(3)
        other = build_model("yolov8n", 3)
        assert load_weights(other, tmp_path / name).kept == []
        assert same(other.state_dict(), model.state_dict())


def test_another_number_of_classes_gives_all_other_layers(tmp_path):
    save_file(build_model("yolov8n", 3).state_dict(), tmp_path / "three.safetensors")
    found = load_weights(build_model("yolov8n", 5), tmp_path / "three.safetensors")
    class_layers = [
        f"head.class_towers.{i}.2.{kind}" for i in range(3) for kind in ("weight", "bias")
    ]
    assert sorted(found.kept) == sorted(found.unused) == sorted(class_layers)
    assert "6 of the model's keep their values: head.class_towers.0.2.weight" in str(found)
    with pytest.raises(InputError, match="no layer of it fits the model"):
        load_weights(nn.Linear(2, 2), tmp_path / "three.safetensors")


def test_files_without_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone.pt: no such file"):
        read_weights(tmp_path / "gone.pt")
    with pytest.raises(InputError, match=r"gone.safetensors: no such file"):
        read_weights(tmp_path / "gone.safetensors")
    (tmp_path / "text.pt").write_text("hello, this is text")
    (tmp_path / "text.safetensors").write_text("hello, this is text")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name, told in (("text.pt", "cannot be read"), ("text.safetensors", "cannot be read"),
                       ("empty.pt", "no tensor of a model was found")):  # fmt: skip
        with pytest.raises(InputError, match=f"{name}.*{told}"):
            read_weights(tmp_path / name)
