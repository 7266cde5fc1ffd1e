"""Teachers that are sure of something, without hours of training."""

import torch
from torch import nn

from hvd_yolo import checkpoint
from hvd_yolo.config import Config, to_yaml
from hvd_yolo.data import open_dataset
from hvd_yolo.models import build_model


def sure_model(name, num_classes, seed=1):
    """A detector in evaluation mode whose scores lie around a half and whose boxes differ from
    point to point: fresh weights, but statistics that let the image through."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes).double()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    outputs = [m for m in model.head.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        model.train().predict(torch.rand(4, 3, 64, 64, dtype=torch.float64))
        for norm in norms:
            # Dead channels would blow up on another image.
            norm.running_var.clamp_(min=0.1)
        for conv in outputs:
            conv.weight.mul_(0.3)
            conv.bias.normal_(0.5, 1.0)
    return model.eval()


def write_teacher(path, name="yolov8n", **names):
    """A checkpoint of `name` for the drawn data set; names: other classes than its own."""
    dataset = open_dataset("shapes:8", "train")
    classes = names.get("names", dataset.names)
    content = {
        "config": to_yaml(Config(model=name)),
        "names": list(classes),
        "category_ids": list(range(len(classes))),
        "weights": sure_model(name, len(classes)).float().state_dict(),
    }
    checkpoint.save(path, content)
    return str(path)
