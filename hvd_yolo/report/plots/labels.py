"""What the training split holds: objects of each class, objects an image, sizes and places of
boxes."""

from typing import NamedTuple

import numpy as np

from hvd_yolo.data.dataset import WHOLE, Dataset, truth_of
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.report.plots.canvas import COLOURS, WIDTH, Plot, dress, new_figure, png, shortened

# So many images are looked at, evenly spread: for the classes, and for the boxes, which of some
# formats need the image's sides.
_MOST_COUNTED, _MOST_MEASURED = 100_000, 2000


class Labels(NamedTuple):
    """names (K), counts (K): objects of each class; per_image (N); boxes (M, 4): xyxy as shares of
    the image's sides; what, what_boxes: of which images, in words."""

    names: tuple[str, ...]
    counts: np.ndarray
    per_image: np.ndarray
    boxes: np.ndarray
    what: str
    what_boxes: str


def take_labels(dataset: Dataset) -> Labels:
    """Counts and measures the labels; images that cannot be read have no boxes."""
    num_images = len(dataset)
    counted, measured = (
        range(0, num_images, -(-num_images // most)) for most in (_MOST_COUNTED, _MOST_MEASURED)
    )
    # Larger than any image, so that no box lies outside.
    found = [dataset.annotations(index, WHOLE, WHOLE) for index in counted]
    labels = [truth.labels[~truth.is_crowd] for truth in found]
    counts = np.bincount(np.concatenate(labels), minlength=len(dataset.names))
    per_image = np.array([len(own) for own in labels])
    boxes = [np.zeros((0, 4))]
    for index in measured:
        try:
            image = dataset.scaled(index, WHOLE)
        except UnreadableImage:
            continue
        truth = truth_of(dataset, index, image)
        shares = truth.boxes / ((image.width, image.height) * 2)
        boxes.append(shares[~truth.is_crowd])
    whats = (
        f"Of {len(part):,} of {num_images:,} training images"
        if len(part) < num_images
        else f"Of all {num_images:,} training images"
        for part in (counted, measured)
    )
    return Labels(dataset.names, counts, per_image, np.concatenate(boxes), *whats)


def label_plots(found: Labels) -> list[Plot]:
    """Four plots; of boxes, only where there are any."""
    plots = [_classes(found), _per_image(found)]
    if len(found.boxes):
        plots += [_sizes(found), _places(found)]
    return plots


def _classes(found: Labels) -> Plot:
    names = found.names
    order = np.argsort(found.counts, kind="stable")
    figure = new_figure(WIDTH, max(2.4, 0.7 + 0.19 * len(names)))
    axes = figure.subplots()
    bars = axes.barh(np.arange(len(names)), found.counts[order], 0.72, color=COLOURS[0])
    axes.bar_label(bars, [f"{c:,}" for c in found.counts[order]], padding=3, fontsize=8)
    axes.set_yticks(np.arange(len(names)), [shortened(names[label]) for label in order])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.14)
    dress(axes, "objects")
    axes.grid(visible=False, axis="y")
    if len(names) > 20:
        axes.tick_params(axis="y", labelsize=8)
    most, least = order[-1], order[0]
    alt = (
        f"Objects of each of {len(names)} classes: most {names[most]}, {found.counts[most]}; least "
        f"{names[least]}, {found.counts[least]}."
    )
    shape = "tall" if len(names) > 20 else ""
    return Plot("labels_classes", "Objects by class", png(figure), alt, f"{found.what}.", shape)


def _per_image(found: Labels) -> Plot:
    figure = new_figure()
    axes = figure.subplots()
    most = int(found.per_image.max(initial=0))
    width = -(-(most + 1) // 40)
    axes.hist(found.per_image, np.arange(0, most + 1 + width, width) - 0.5, color=COLOURS[0])
    dress(axes, "objects", "images")
    axes.grid(visible=False, axis="x")
    axes.xaxis.get_major_locator().set_params(integer=True)
    mean, empty = found.per_image.mean(), int((found.per_image == 0).sum())
    told = f"Mean {mean:.1f}, most {most}; {empty} images have none. {found.what}."
    return Plot("labels_per_image", "Objects an image", png(figure), told, told)


def _sizes(found: Labels) -> Plot:
    sides = np.clip(found.boxes[:, 2:] - found.boxes[:, :2], 0, 1)
    return _density(
        "labels_sizes", "Box sizes", sides, ("width / image width", "height / image height"),
        f"Median width {np.median(sides[:, 0]):.0%} and height {np.median(sides[:, 1]):.0%} of the "
        f"image's. {found.what_boxes}.",
    )  # fmt: skip


def _places(found: Labels) -> Plot:
    centres = np.clip((found.boxes[:, :2] + found.boxes[:, 2:]) / 2, 0, 1)
    return _density(
        "labels_positions", "Box centres", centres, ("x / image width", "y / image height"),
        f"How often the centre of a box lies where. {found.what_boxes}.", is_image=True,
    )  # fmt: skip


def _density(
    name: str,
    title: str,
    points: np.ndarray,
    axis_names: tuple[str, str],
    told: str,
    is_image: bool = False,
) -> Plot:
    """Points (M, 2) in 0..1, by how many fall into a cell; empty cells stay white. y runs down in
    an image."""
    figure = new_figure(WIDTH, 3.9)
    axes = figure.subplots()
    counts, _, _ = np.histogram2d(*points.T, bins=50, range=((0, 1), (0, 1)))
    cells = np.ma.masked_equal(counts.T, 0)
    # A single box must be seen, too.
    axes.imshow(
        cells, cmap="Blues", vmin=-0.3 * counts.max(), origin="lower", aspect="auto",
        extent=(0, 1, 0, 1), interpolation="nearest",
    )  # fmt: skip
    dress(axes, *axis_names)
    if is_image:
        axes.invert_yaxis()
    return Plot(name, title, png(figure), told, told)
