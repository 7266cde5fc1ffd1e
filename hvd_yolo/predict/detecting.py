"""Detections of batches, written image by image as they are found."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hvd_yolo.comm import Comm, log
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.loader import Batch
from hvd_yolo.data.sources import Place
from hvd_yolo.evaluate import detection_rows
from hvd_yolo.evaluate.inference import infer
from hvd_yolo.predict.output_names import OutputNames
from hvd_yolo.predict.outputs import draw, write_outputs


class Images(Dataset, Protocol):
    """A Dataset that knows where its images come from."""

    def place(self, index: int) -> Place:
        """The file, and the frame of a video."""
        ...


@dataclass
class Detected:
    """What one rank has found: rows (D, 7) as evaluate.scoring.Table holds them, a list of arrays,
    the number of images, the messages of those that could not be read, and the last text that was
    written."""

    rows: list[np.ndarray] = field(default_factory=lambda: [np.zeros((0, 7))])
    num_images: int = 0
    unreadable: list[str] = field(default_factory=list)
    label: str = ""


def detect(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    images: Images,
    outputs: Callable[[int], OutputNames],
    folder: Path,
    comm: Comm,
    detected: Detected,
    amp: str,
) -> None:
    """Detects on the batches and writes the picture and text of each image where outputs(index)
    says; adds to `detected`. amp: none, bf16 or fp16."""
    index_of_id = {images.image_id(index): index for index in range(len(images))}
    for found in infer(model, batches, comm.device, amp):
        for message in found.unreadable:
            _note(detected, message, comm)
        for item, own_rows in zip(found.items, found.rows, strict=True):
            rows = detection_rows(item, own_rows)
            index = index_of_id[item.image_id]
            try:
                picture = draw(images.image(index), rows, images.names)
            except UnreadableImage as error:
                # It could be read a moment ago.
                _note(detected, str(error), comm)
                continue
            output = outputs(index)
            write_outputs(folder, output, picture, rows, comm.rank)
            detected.label = output.label
            detected.rows.append(rows)
            detected.num_images += 1


def _note(detected: Detected, message: str, comm: Comm) -> None:
    log(comm).error("not detected on, an unreadable image: %s", message)
    detected.unreadable.append(message)
