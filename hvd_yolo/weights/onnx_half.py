"""Half precision in an ONNX file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def halve(file: Path) -> None:
    """Turns the network of an ONNX file into float16, weights and arithmetic, in place.

    Inputs and outputs stay float32, and so does what comes after the last convolutions: the boxes'
    coordinates, of which float16 has one in two pixels beyond 1024.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(file)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node{number}"
    decoding = _after_convolutions(model.graph.node)
    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=decoding)
    # It leaves its casts at the end.
    OnnxModel(model).topological_sort()
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _after_convolutions(nodes: Sequence[Any]) -> list[str]:
    """The names of the nodes on whose results no convolution depends, convolutions left out; the
    nodes come in topological order."""
    needed: set[str] = set()
    after = []
    for node in reversed(nodes):
        if node.op_type == "Conv" or needed.intersection(node.output):
            needed.update(node.input)
        else:
            after.append(node.name)
    return after
