"""What a loader process makes: model inputs written into memory it is given, and what belongs to
them. Without torch, which a worker has no need of."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.batch_layout import BatchLayout, slot_bytes, write_targets
from hvd_yolo.data.dataset import Annotations, Dataset, sample_of, truth_of
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.mosaic import Composer
from hvd_yolo.data.order import Dealing, Order, keyed_rng
from hvd_yolo.data.rendering import letterbox_layer, render
from hvd_yolo.data.transforms import recolour
from hvd_yolo.letterbox import Letterbox, letterbox
from hvd_yolo.padding import padded_length


@dataclass
class Item:
    """One input, with `num_objects` objects: they lie with its pixels, see BatchLayout.

    In evaluation width and height are those of the file, box says where it lies in the input, and
    truth is what it is scored against, in pixels of the file. turn: the EXIF orientation by which
    boxes of the annotations are turned; 1: they are not.
    """

    image_id: int
    num_objects: int
    width: int = 0
    height: int = 0
    box: Letterbox | None = None
    truth: Annotations | None = None
    turn: int = 1


@dataclass
class Filled:
    """What was written: one width x height input an item, and the messages of unreadable images,
    which were passed over. turned: ids of images whose boxes were turned with them; targets: those
    of the batch, as write_targets() returns them, where its slot had no room for them."""

    items: list[Item]
    unreadable: list[str]
    width: int
    height: int
    turned: set[int] = field(default_factory=set)
    targets: np.ndarray | None = None

    @property
    def layout(self) -> BatchLayout:
        """How the batch lies in its slot."""
        max_objects = padded_length([item.num_objects for item in self.items])
        return BatchLayout(len(self.items), self.height, self.width, max_objects)

    def examples(self, slot: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Image (H, W, 3), boxes (N, 4) and labels (N) of each input, not copied."""
        layout = self.layout
        part = slot[layout.image_bytes :] if self.targets is None else self.targets
        counts, labels, boxes = layout.targets(part, np.int64, np.float64)
        return [
            (image, boxes[i, : counts[i]], labels[i, : counts[i]])
            for i, image in enumerate(layout.images(slot))
        ]


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
        return slot_bytes(self.dealing.micro_batch, self.order.largest_side)

    def fill(self, number: int, out: np.ndarray) -> Filled:
        """Writes micro-batch `number` to the start of `out` (slot_bytes) uint8: its inputs in RGB
        and their objects."""
        wanted = self.dealing.micro_batch_at(self.order, self.start, number, self.rank)
        is_alone = wanted.epoch >= self.closing_epoch or self.order.aspects is not None
        composer = Composer(
            self.dataset, self.config, self.order.largest_side, wanted.width, wanted.height,
            is_alone,
            # As often as the weights ask, here too.
            None if self.order.weights is None else self.order.epoch(wanted.epoch),
        )  # fmt: skip
        inputs = BatchLayout(len(wanted.indices), wanted.height, wanted.width, 0).images(out)
        filled = Filled([], [], wanted.width, wanted.height)
        boxes, labels = [], []
        for place, index in enumerate(wanted.indices, wanted.first):
            rng = keyed_rng(self.order.seed, wanted.epoch, place)
            try:
                picture = composer.picture(index, rng)
            except UnreadableImage as error:
                filled.unreadable.append(str(error))
                continue
            recolour(rng, self.config, picture.image, inputs[len(filled.items)])
            boxes.append(picture.boxes)
            labels.append(picture.labels)
            filled.items.append(Item(self.dataset.image_id(index), len(picture.labels)))
        filled.turned = composer.turned
        filled.targets = write_targets(out, filled.layout, boxes, labels)
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
        return slot_bytes(max((len(block) for block in self.blocks), default=0), self.size)

    def fill(self, number: int, out: np.ndarray) -> Filled:
        """Writes block `number` to the start of `out` (slot_bytes) uint8: its inputs in RGB and
        their objects."""
        block, size = self.blocks[number], self.size
        inputs = BatchLayout(len(block), size, size, 0).images(out)
        filled = Filled([], [], size, size)
        boxes, labels = [], []
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
            boxes.append(place.apply(sample.boxes))
            labels.append(sample.labels)
            truth = truth_of(self.dataset, index, found)
            turn = found.orientation if sample.is_turned else 1
            sides = found.width, found.height
            filled.items.append(Item(sample.image_id, len(sample.labels), *sides, box, truth, turn))
        filled.turned = {item.image_id for item in filled.items if item.turn != 1}
        filled.targets = write_targets(out, filled.layout, boxes, labels)
        return filled
