"""What a loader process makes: model inputs written into memory it is given, and what belongs to
them. Without torch, which a worker has no need of."""

from dataclasses import dataclass

import cv2
import numpy as np

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.dataset import Annotations, Dataset, sample_of
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.mosaic import Composer
from hvd_yolo.data.order import Dealing, Order, keyed_rng
from hvd_yolo.data.rendering import letterbox_layer, render
from hvd_yolo.data.transforms import recolour
from hvd_yolo.letterbox import Letterbox, letterbox


@dataclass
class Item:
    """One input: its boxes (N, 4) in input pixels and labels (N).

    In evaluation width and height are those of the file, box says where it lies in the input, and
    truth is what it is scored against, in pixels of the file.
    """

    boxes: np.ndarray
    labels: np.ndarray
    image_id: int
    width: int = 0
    height: int = 0
    box: Letterbox | None = None
    truth: Annotations | None = None


@dataclass
class Filled:
    """What was written: one width x height input an item, and the messages of unreadable images,
    which were passed over."""

    items: list[Item]
    unreadable: list[str]
    width: int
    height: int


@dataclass
class TrainingInputs:
    """The micro-batches of a rank from `start`, (epoch, images seen in it), on and without end;
    each is a pure function of its number.

    The long side of stored images is cut to `order.largest_side`.
    """

    dataset: Dataset
    config: AugmentConfig
    order: Order
    dealing: Dealing
    start: tuple[int, int]
    rank: int
    closing_epoch: int

    @property
    def slot_bytes(self) -> int:
        """The most that fill() writes."""
        return self.dealing.micro_batch * self.order.largest_side**2 * 3

    def fill(self, number: int, out: np.ndarray) -> Filled:
        """Writes micro-batch `number` to the start of `out` (slot_bytes) uint8: its inputs (B, H,
        W, 3) RGB."""
        wanted = self.dealing.micro_batch_at(self.order, self.start, number, self.rank)
        is_alone = wanted.epoch >= self.closing_epoch or self.order.aspects is not None
        composer = Composer(
            self.dataset, self.config, self.order.largest_side, wanted.width, wanted.height,
            is_alone,
            # As often as the weights ask, here too.
            None if self.order.weights is None else self.order.epoch(wanted.epoch),
        )  # fmt: skip
        inputs = input_views(out, len(wanted.indices), wanted.width, wanted.height)
        filled = Filled([], [], wanted.width, wanted.height)
        for place, index in enumerate(wanted.indices, wanted.first):
            rng = keyed_rng(self.order.seed, wanted.epoch, place)
            try:
                picture = composer.picture(index, rng)
            except UnreadableImage as error:
                filled.unreadable.append(str(error))
                continue
            recolour(rng, self.config, picture.image, inputs[len(filled.items)])
            image_id = self.dataset.image_id(index)
            filled.items.append(Item(picture.boxes, picture.labels, image_id))
        return filled


@dataclass
class EvaluationInputs:
    """The letterboxed images of `blocks` of indices, with their truth."""

    dataset: Dataset
    size: int
    blocks: list[range]

    @property
    def slot_bytes(self) -> int:
        """The most that fill() writes."""
        return max((len(block) for block in self.blocks), default=0) * self.size**2 * 3

    def fill(self, number: int, out: np.ndarray) -> Filled:
        """Writes block `number` to the start of `out` (slot_bytes) uint8: its inputs (B, S, S, 3)
        RGB."""
        block, size = self.blocks[number], self.size
        inputs = input_views(out, len(block), size, size)
        filled = Filled([], [], size, size)
        for index in block:
            try:
                found = self.dataset.scaled(index, size)
                sample = sample_of(self.dataset, index, found)
                picture = render([letterbox_layer(sample, size, size)], np.eye(3), size, size)
            except UnreadableImage as error:
                filled.unreadable.append(str(error))
                continue
            cv2.cvtColor(picture.image, cv2.COLOR_BGR2RGB, dst=inputs[len(filled.items)])
            box = letterbox(found.width, found.height, size, size)
            place = letterbox(sample.width, sample.height, size, size)
            truth = self.dataset.annotations(index, found.width, found.height)
            boxes = place.apply(sample.boxes)
            filled.items.append(
                Item(boxes, sample.labels, sample.image_id, found.width, found.height, box, truth)
            )
        return filled


def input_views(out: np.ndarray, count: int, width: int, height: int) -> np.ndarray:
    """(count, height, width, 3): the first inputs of the slot `out` (n) uint8, not copied."""
    return out[: count * height * width * 3].reshape(count, height, width, 3)
