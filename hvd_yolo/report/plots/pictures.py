"""Photographs with boxes: what the model saw first, what it finds beside the truth, and where it
fails most."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from hvd_yolo import feed
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import Config
from hvd_yolo.data.dataset import Dataset, UnreadableImage
from hvd_yolo.data.drawing import class_colour, draw_box
from hvd_yolo.data.inputs import TrainingInputs
from hvd_yolo.evaluate.confusion import Matches, faults_by_image
from hvd_yolo.evaluate.scoring import Table
from hvd_yolo.pace import make_pace

# Pixels of a picture's long side on the page; of the images of an update, so many are shown.
_TRAINING_SIZE, _SIZE, _MOST_OF_UPDATE, _MOST_SHOWN = 320, 440, 8, 8
# With more boxes than this their names would cover the picture.
_MOST_NAMED = 8
# The largest stride of the detectors built in; it decides the sides of inputs that are not square.
_STRIDE = 32
# BGR; what became of a box.
_FOUND, _MISSED, _UNFOUNDED, _MISTAKEN = (80, 175, 76), (0, 165, 255), (60, 60, 230), (200, 60, 200)
_PAPER, _GAP = 255, 8


class Photo(NamedTuple):
    """image (H, W, 3) uint8 BGR, and what it shows."""

    image: np.ndarray
    caption: str


@dataclass
class Gallery:
    """Photographs of one kind; key: what the colours mean, as (colour BGR, text)."""

    name: str
    title: str
    caption: str
    photos: list[Photo]
    key: list[tuple[tuple[int, int, int], str]]


def training_updates(config: Config, size: int, train_set: Dataset) -> list[Gallery]:
    """The inputs of the first two updates of a run that was started on `size` ranks, just as they
    were: order and augmentation are functions of the seed."""
    inputs = first_inputs(config, size, train_set)
    global_batch = make_pace(config, len(train_set), size).dealing.global_batch
    galleries = []
    for update in range(2):
        slot = np.empty(inputs.slot_bytes, dtype=np.uint8)
        filled = inputs.fill(update * inputs.dealing.passes, slot)
        photos, seen = [], set()
        for image, boxes, labels in filled.examples(slot):
            scaled, scale = _cut(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _TRAINING_SIZE)
            _draw_classes(scaled, boxes * scale, labels, train_set.names)
            seen |= set(labels.tolist())
            photos.append(Photo(scaled, f"{len(boxes)} objects"))
        if not photos:
            # None of its images could be read.
            continue
        shown = f"the first {len(photos)} of " if len(photos) < global_batch else ""
        galleries.append(
            Gallery(
                f"training_update_{update + 1}", f"Training batch of update {update + 1}",
                f"What the model saw: {shown}{global_batch} inputs of {filled.width} x "
                f"{filled.height}, augmented.",
                photos, _class_key(seen, train_set.names),
            )
        )  # fmt: skip
    return galleries


def first_inputs(config: Config, size: int, train_set: Dataset) -> TrainingInputs:
    """The inputs of a run on `size` ranks from its first update on, the first of each update in its
    first micro-batch: how they are dealt does not change them."""
    pace = make_pace(config, len(train_set), size)
    batch = pace.dealing.global_batch
    dealing = dataclasses.replace(pace.dealing, micro_batch=min(batch, _MOST_OF_UPDATE), size=1)
    pace = dataclasses.replace(pace, dealing=dealing)
    return feed.training_inputs(config, SingleComm(), train_set, pace, _STRIDE, (0, 0))


def predictions(
    table: Table, val_set: Dataset, names: Sequence[str], threshold: float
) -> Gallery | None:
    """Truth and detections side by side, of images evenly spread over the split."""
    chosen = np.unique(np.linspace(0, len(table.image_ids) - 1, _MOST_SHOWN).astype(int))
    seen: set[int] = set()

    def _pair(image: np.ndarray, image_id: int, scale: float) -> Photo:
        truths = table.truths[table.truths[:, 0] == image_id]
        found = _above(table, threshold)
        found = found[found[:, 0] == image_id]
        sides = image, image.copy()
        for side, boxes, labels, scores in (
            (sides[0], truths[:, 1:5], truths[:, 5], None),
            (sides[1], found[:, 1:5], found[:, 6], found[:, 5]),
        ):
            _draw_classes(side, boxes * scale, labels.astype(int), names, scores)
            seen.update(labels.astype(int).tolist())
        gap = np.full((len(image), _GAP, 3), _PAPER, np.uint8)
        caption = f"image {image_id}: {len(truths)} objects, {len(found)} found"
        return Photo(np.concatenate((sides[0], gap, sides[1]), axis=1), caption)

    photos = _pictured(val_set, table.image_ids[chosen], _pair)
    return _gallery(
        "val_predictions", "Validation: truth and prediction",
        "Left the truth, right what the best model finds with a score of at least "
        f"{threshold:.3f}, where F1 is highest.",
        photos, lambda: _class_key(seen, names),
    )  # fmt: skip


def worst_images(
    table: Table, matches: Matches, val_set: Dataset, names: Sequence[str], threshold: float
) -> Gallery | None:
    """The images with the most faults; matches: at `threshold`."""
    faults = faults_by_image(table, matches)
    ranking = sorted(faults, key=lambda image_id: (-sum(faults[image_id]), image_id))
    chosen = [image_id for image_id in ranking if sum(faults[image_id])][:_MOST_SHOWN]

    def _marked(image: np.ndarray, image_id: int, scale: float) -> Photo:
        _draw_outcomes(image, table, matches, image_id, scale, names)
        own = faults[image_id]
        told = f"{own.missed} missed, {own.unfounded} unfounded, {own.mistaken} of a wrong class"
        return Photo(image, f"image {image_id}: {told}")

    key = [
        (_FOUND, "found"), (_MISSED, "missed"), (_UNFOUNDED, "unfounded: nothing is there"),
        (_MISTAKEN, "wrong class"),
    ]  # fmt: skip
    return _gallery(
        "worst_images", "Worst images",
        "Ranked by objects missed + detections of nothing + wrong classes, at IoU 0.5 and a score "
        f"of at least {threshold:.3f}, where F1 is highest.",
        _pictured(val_set, chosen, _marked), lambda: key,
    )  # fmt: skip


def sheet(photos: Sequence[Photo], columns: int) -> np.ndarray:
    """The photographs in rows on one picture (H, W, 3)."""
    columns = min(columns, len(photos))
    width = max(photo.image.shape[1] for photo in photos) + _GAP
    rows = []
    for first in range(0, len(photos), columns):
        images = [photo.image for photo in photos[first : first + columns]]
        row = np.full((max(map(len, images)) + _GAP, columns * width, 3), _PAPER, np.uint8)
        for place, image in enumerate(images):
            row[: len(image), place * width : place * width + image.shape[1]] = image
        rows.append(row)
    return np.concatenate(rows)


def _gallery(
    name: str,
    title: str,
    caption: str,
    photos: list[Photo],
    key: Callable[[], list[tuple[tuple[int, int, int], str]]],
) -> Gallery | None:
    return Gallery(name, title, caption, photos, key()) if photos else None


def _pictured(
    val_set: Dataset,
    image_ids: Iterable[int],
    draw: Callable[[np.ndarray, int, float], Photo],
) -> list[Photo]:
    """What `draw` makes of each image, its id and how much smaller it is than its file."""
    places = {val_set.image_id(index): index for index in range(len(val_set))}
    photos = []
    for image_id in map(int, image_ids):
        if image_id not in places:
            continue
        try:
            image, scale = _cut(val_set.image(places[image_id]), _SIZE)
        except UnreadableImage:
            continue
        photos.append(draw(image, image_id, scale))
    return photos


def _cut(image: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """A copy with its long side as `size`, and the scale."""
    scale = size / max(image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    sides = [max(1, math.floor(scale * side)) for side in image.shape[1::-1]]
    return cv2.resize(image, sides, interpolation=method), scale


def _draw_classes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
) -> None:
    """Boxes in the colours of their classes, with names where there is room."""
    for place in range(len(boxes)):
        label, text = int(labels[place]), ""
        if len(boxes) <= _MOST_NAMED:
            text = names[label] if scores is None else f"{names[label]} {scores[place]:.2f}"
        draw_box(image, boxes[place].tolist(), text, class_colour(label), 1 + (not text))


def _draw_outcomes(
    image: np.ndarray,
    table: Table,
    matches: Matches,
    image_id: int,
    scale: float,
    names: Sequence[str],
) -> None:
    truths, found = table.truths, table.detections
    pairs = matches.pairs[truths[matches.pairs[:, 0], 0] == image_id]
    is_right = truths[pairs[:, 0], 5] == found[pairs[:, 1], 6]
    missed = matches.missed[truths[matches.missed, 0] == image_id]
    unfounded = matches.unfounded[found[matches.unfounded, 0] == image_id]
    mistaken = pairs[~is_right]
    groups = (
        (found[pairs[is_right, 1], 1:5], [""] * int(is_right.sum()), _FOUND),
        (truths[missed, 1:5], [names[int(k)] for k in truths[missed, 5]], _MISSED),
        (found[unfounded, 1:5], [names[int(k)] for k in found[unfounded, 6]], _UNFOUNDED),
        (
            found[mistaken[:, 1], 1:5],
            [
                f"{names[int(found[d, 6])]}, is {names[int(truths[t, 5])]}"
                for t, d in mistaken.tolist()
            ],
            _MISTAKEN,
        ),
    )
    is_named = len(missed) + len(unfounded) + len(mistaken) <= _MOST_NAMED
    for boxes, texts, colour in groups:
        for box, text in zip(boxes * scale, texts, strict=True):
            width = 1 if colour == _FOUND else 2
            draw_box(image, box.tolist(), text if is_named else "", colour, width)


def _above(table: Table, threshold: float) -> np.ndarray:
    return table.detections[table.detections[:, 5] >= threshold]


def _class_key(
    labels: Iterable[int], names: Sequence[str]
) -> list[tuple[tuple[int, int, int], str]]:
    return [(class_colour(label), names[label]) for label in sorted(labels)]
