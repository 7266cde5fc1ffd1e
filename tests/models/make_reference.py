"""Writes reference.json: what the ultralytics package computes from the weights of filled.py.

Run by a Python that has the package (AGPL-3.0; only numbers are taken from it):
PEER/bin/python tests/models/make_reference.py
"""

import json
from pathlib import Path

import torch
from filled import OBJECTS, fill, picture, samples
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.torch_utils import get_flops

FORWARD = ("yolov5nu", "yolov5su", "yolov5n6u", "yolov8n", "yolov8s", "yolov8n-p6", "yolov10n",
           "yolov10s", "yolov10m", "yolo11n", "yolo11s", "yolo11m")  # fmt: skip
COUNTED = (
    *(f"yolov5{s}u" for s in "nsmlx"), *(f"yolov5{s}6u" for s in "nsmlx"),
    *(f"yolov8{s}" for s in "nsmlx"), *(f"yolov8{s}-p6" for s in "nsmlx"),
    *(f"yolov10{s}" for s in "nsmblx"), *(f"yolo11{s}" for s in "nsmlx"),
)  # fmt: skip


def build(name: str) -> DetectionModel:
    """The package's model of our name."""
    config = name.removesuffix("u") + ".yaml"
    if name.endswith("6u"):
        config = name[:-2] + "-p6.yaml"
    return DetectionModel(config, verbose=False)


def losses(model: DetectionModel, raw: dict[str, torch.Tensor], topk: int) -> list[float]:
    """box, cls and dfl, normalised."""
    model.args = get_cfg()
    table = torch.tensor(OBJECTS)
    batch = {"batch_idx": table[:, 0], "cls": table[:, 1:2], "bboxes": table[:, 2:]}
    found = v8DetectionLoss(model, tal_topk=topk)(raw, batch)[1]
    return [float(found[key]) for key in ("box_loss", "cls_loss", "dfl_loss")]


def main() -> None:
    """Writes the file."""
    found: dict[str, dict] = {}
    for name in COUNTED:
        model = build(name)
        found[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "gflops": round(get_flops(model, 640), 1),
        }
        if name not in FORWARD:
            continue
        fill(model.state_dict())
        model.eval()
        with torch.no_grad():
            raw = model(picture(128))[1]
        heads = {"many": raw} if "boxes" in raw else {
            "many": raw["one2many"], "one": raw["one2one"]
        }  # fmt: skip
        for head, said in heads.items():
            found[name][head] = {
                "distances": samples(said["boxes"]),
                "logits": samples(said["scores"]),
                "losses": losses(model, said, 10 if head == "many" else 1),
            }
    file = Path(__file__).with_name("reference.json")
    file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
