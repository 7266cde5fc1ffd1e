"""export: half precision, operator sets, and without the data of the training."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hvd_yolo import checkpoint, export
from hvd_yolo.config import Config, to_yaml
from hvd_yolo.errors import InputError
from hvd_yolo.models import build_model
from hvd_yolo.weights.trained import open_trained


@pytest.fixture
def weights(tmp_path):
    """A detector of three classes whose training was on data that is not here."""
    torch.manual_seed(0)
    content = {
        "weights": build_model("yolov8n", 3).state_dict(),
        "config": to_yaml(Config(model="yolov8n", imgsz=64, data="/none/data.yaml")),
        "names": ["a", "b", "c"], "category_ids": [1, 2, 3],
    }  # fmt: skip
    checkpoint.save(tmp_path / "best.pt", content)
    return tmp_path / "best.pt"


def test_half_precision_without_the_data(weights, capsys):
    export.main(["--weights", str(weights), "--half", "true", "--opset", "13"])
    told = capsys.readouterr().out
    assert "on 4 drawn images, batches of 1 and 4" in told
    file = weights.with_suffix(".onnx")
    model = onnx.load(file)
    assert model.opset_import[0].version == 13
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    images = torch.rand(2, 3, 64, 96)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    boxes, scores = session.run(None, {"images": images.numpy()})
    assert boxes.dtype == scores.dtype == np.float32
    with torch.no_grad():
        expected = export.Raw(open_trained(weights, 0.25, 0.7, 300).model).eval()(images)
    assert np.abs(boxes - expected[0].numpy()).max() < 0.32
    assert np.abs(scores - expected[1].numpy()).max() < 1e-2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--data", "/none/data.yaml"), "/none/data.yaml"),
        (("--half", "true", "--format", "torchscript"), "half is for formats onnx and openvino"),
        (("--opset", "20", "--format", "openvino"), "opset is for format onnx"),
        (("--opset", "9"), "opset is 9, it must be between 13 and 20"),
    ],
)
def test_what_cannot_be_exported_is_refused(weights, options, told):
    with pytest.raises(InputError, match=told):
        export.main(["--weights", str(weights), *options])
