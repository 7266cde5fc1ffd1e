"""What a loader process makes: model inputs written into memory it is given, and what belongs to
them. Without torch, which a worker has no need of."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.dataset import Annotations, Dataset, sample_of, truth_of
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
    truth is what it is scored against, in pixels of the file. turn: the EXIF orientation by which
    boxes of the annotations are turned; 1: they are not.
    """

    boxes: np.ndarray
    labels: np.ndarray
    image_id: int
    width: int = 0
    height: int = 0
    box: Letterbox | None = None
    truth: Annotations | None = None
    turn: int = 1


@dataclass
class Filled:
    """What was written: one width x height input an item, and the messages of unreadable images,
    which were passed over. turned: ids of images whose boxes were turned with them."""

    items: list[Item]
    unreadable: list[str]
    width: int
    height: int
    turned: set[int] = field(default_factory=set)


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
        filled.turned = composer.turned
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
            boxes, truth = place.apply(sample.boxes), truth_of(self.dataset, index, found)
            turn = found.orientation if sample.is_turned else 1
            sides = found.width, found.height
            filled.items.append(
                Item(boxes, sample.labels, sample.image_id, *sides, box, truth, turn)
            )
        filled.turned = {item.image_id for item in filled.items if item.turn != 1}
        return filled


def input_views(out: np.ndarray, count: int, width: int, height: int) -> np.ndarray:
    """(count, height, width, 3): the first inputs of the slot `out` (n) uint8, not copied."""
    return out[: count * height * width * 3].reshape(count, height, width, 3)
