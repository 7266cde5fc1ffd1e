"""From an index to a training picture: mosaic, mixup and cutmix, everything keyed by (seed, epoch,
index)."""

import cv2
import numpy as np

from hvd_yolo import boxes as box_ops
from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.dataset import Dataset, Sample, UnreadableImage, load_sample
from hvd_yolo.data.transforms import (
    Layer,
    Picture,
    affine,
    hsv,
    letterbox_layer,
    random_crop,
    render,
)

# Partners drawn before a data set is taken to be unreadable altogether.
_MOST_DRAWS = 20


def training_picture(
    dataset: Dataset,
    index: int,
    rng: np.random.Generator,
    config: AugmentConfig,
    size: int,
    is_closing: bool,
) -> Picture:
    """The size x size picture of image `index`; its partners are drawn from `rng` too.

    In the closing epochs `is_closing` is True and one image stays by itself: no mosaic, mixup or
    cutmix. Raises UnreadableImage for the image; partners that cannot be read are drawn again.
    """
    sample = _load(dataset, index, rng, config)
    picture = _compose(dataset, sample, rng, config, size, is_closing)
    if not is_closing:
        if rng.random() < config.mixup:
            picture = mixup(rng, picture, _partner(dataset, rng, config, size))
        if rng.random() < config.cutmix:
            picture = cutmix(rng, picture, _partner(dataset, rng, config, size))
    return picture._replace(image=hsv(rng, config, picture.image))


def mosaic_layers(
    samples: list[Sample], centre_x: float, centre_y: float, size: int
) -> list[Layer]:
    """Four images around one point of a 2 size x 2 size canvas, each scaled to the long side
    `size`.

    They touch at the point and reach outwards, top left, top right, bottom left, bottom right
    (YOLOv4, Bochkovskiy et al. 2020). What reaches over the canvas is seen only if the picture is
    zoomed out that far.
    """
    layers = []
    for position, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        box = box_ops.letterbox(width, height, size)
        x = centre_x - (box.width if position % 2 == 0 else 0)
        y = centre_y - (box.height if position < 2 else 0)
        matrix = np.array(((box.scale_x, 0, x), (0, box.scale_y, y), (0, 0, 1)))
        layers.append(Layer(sample, matrix))
    return layers


def mixup(rng: np.random.Generator, a: Picture, b: Picture) -> Picture:
    """The two pictures blended, the share drawn from Beta(32, 32); both keep their boxes (Zhang et
    al. 2018)."""
    share = rng.beta(32.0, 32.0)
    image = cv2.addWeighted(a.image, share, b.image, 1 - share, 0)
    return Picture(image, np.concatenate((a.boxes, b.boxes)), np.concatenate((a.labels, b.labels)))


def cutmix(rng: np.random.Generator, a: Picture, b: Picture) -> Picture:
    """A rectangle of `b` pasted onto `a` at its own place (Yun et al. 2019), its area drawn as 1 -
    Beta(1, 1).

    Boxes of `a` more than half covered go; boxes of `b` are clipped to the rectangle, and go with
    more than half outside it.
    """
    size = a.image.shape[0]
    side = np.sqrt(1 - rng.beta(1.0, 1.0)) * size
    centre = rng.uniform(0, size, 2)
    left, top = np.floor((centre - side / 2).clip(0, size)).astype(int)
    right, bottom = np.ceil((centre + side / 2).clip(0, size)).astype(int)
    image = a.image.copy()
    image[top:bottom, left:right] = b.image[top:bottom, left:right]
    window = (left, top, right, bottom)
    keep_a = _share_inside(a.boxes, window) <= 0.5
    keep_b = _share_inside(b.boxes, window) >= 0.5
    clipped = _clip_to(b.boxes[keep_b], window)
    return Picture(
        image,
        np.concatenate((a.boxes[keep_a], clipped)),
        np.concatenate((a.labels[keep_a], b.labels[keep_b])),
    )


def _compose(
    dataset: Dataset,
    sample: Sample,
    rng: np.random.Generator,
    config: AugmentConfig,
    size: int,
    is_closing: bool,
) -> Picture:
    """The image under one random affine map, alone or in a mosaic with three others."""
    if not is_closing and rng.random() < config.mosaic:
        centre_x, centre_y = rng.uniform(0.5 * size, 1.5 * size, 2)
        samples = [sample, *(_load_any(dataset, rng, config) for _ in range(3))]
        layers = mosaic_layers(samples, centre_x, centre_y, size)
        return render(layers, affine(rng, config, 2 * size, size), size)
    return render([letterbox_layer(sample, size)], affine(rng, config, size, size), size)


def _partner(
    dataset: Dataset, rng: np.random.Generator, config: AugmentConfig, size: int
) -> Picture:
    return _compose(dataset, _load_any(dataset, rng, config), rng, config, size, False)


def _load_any(dataset: Dataset, rng: np.random.Generator, config: AugmentConfig) -> Sample:
    """Some image of the data set; an unreadable one is passed over, for it fails in its own
    turn."""
    for _ in range(_MOST_DRAWS):
        try:
            return _load(dataset, int(rng.integers(len(dataset))), rng, config)
        except UnreadableImage as error:
            last_error = error
    raise last_error


def _load(dataset: Dataset, index: int, rng: np.random.Generator, config: AugmentConfig) -> Sample:
    sample = load_sample(dataset, index)
    return random_crop(rng, sample) if rng.random() < config.crop else sample


def _clip_to(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = window
    return boxes.clip((left, top, left, top), (right, bottom, right, bottom))


def _share_inside(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The share (N) of each box's area inside the window."""
    inside = _clip_to(boxes, window)
    return (inside[:, 2:] - inside[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
