"""Non-maximum suppression as the last operators of an ONNX file."""

from pathlib import Path


def add_suppression(file: Path, conf: float, iou: float, max_detections: int) -> None:
    """Replaces the outputs boxes (B, A, 4) and scores (B, A, K) of an ONNX file by those of
    per-class suppression: image (D), label (D), score (D) and box (D, 4) of D detections.

    conf: the lowest score; iou: overlap above which the weaker of two is dropped; max_detections:
    kept of each class of an image.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(file)
    graph = model.graph
    constants = {
        "nms_count": np.array([max_detections], dtype=np.int64),
        "nms_iou": np.array([iou], dtype=np.float32),
        "nms_conf": np.array([conf], dtype=np.float32),
        "nms_image_point": np.array([0, 2], dtype=np.int64),
        "nms_image": np.array(0, dtype=np.int64),
        "nms_class": np.array(1, dtype=np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    node = helper.make_node
    graph.node.extend([
        node("Transpose", ["scores"], ["scores_by_class"], perm=[0, 2, 1]),
        node("NonMaxSuppression",
             ["boxes", "scores_by_class", "nms_count", "nms_iou", "nms_conf"], ["chosen"]),
        node("Gather", ["chosen", "nms_image"], ["image"], axis=1),
        node("Gather", ["chosen", "nms_class"], ["label"], axis=1),
        node("GatherND", ["scores_by_class", "chosen"], ["score"]),
        node("Gather", ["chosen", "nms_image_point"], ["places"], axis=1),
        node("GatherND", ["boxes", "places"], ["box"]),
    ])  # fmt: skip
    del graph.output[:]
    integers, floats = TensorProto.INT64, TensorProto.FLOAT
    graph.output.extend([
        helper.make_tensor_value_info("image", integers, ["detections"]),
        helper.make_tensor_value_info("label", integers, ["detections"]),
        helper.make_tensor_value_info("score", floats, ["detections"]),
        helper.make_tensor_value_info("box", floats, ["detections", 4]),
    ])  # fmt: skip
    onnx.checker.check_model(model)
    onnx.save(model, file)
