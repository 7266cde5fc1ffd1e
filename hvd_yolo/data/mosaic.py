"""From an index to a training picture: mosaic, mixup and cutmix, everything keyed by (seed, epoch,
index)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data.dataset import Dataset, Sample, load_sample
from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.rendering import Layer, Picture, letterbox_layer, render
from hvd_yolo.data.transforms import affine, random_crop
from hvd_yolo.letterbox import letterbox

# Partners drawn before a data set is taken to be unreadable altogether.
_MOST_DRAWS = 20


@dataclass(frozen=True)
class Composer:
    """Makes training pictures of width x height pixels from images of at most `size`.

    partners (K): what the partners of mosaic, mixup and cutmix are drawn from; None: all images.
    is_alone: an image stays by itself, without these. turned: gets the id of each image whose boxes
    are turned with it.
    """

    dataset: Dataset
    config: AugmentConfig
    size: int
    width: int
    height: int
    is_alone: bool
    partners: np.ndarray | None = None
    turned: set[int] = field(default_factory=set)

    def picture(self, index: int, rng: np.random.Generator) -> Picture:
        """The picture of image `index`; its partners, any images of the data set, are drawn from
        `rng` too.

        Raises UnreadableImage for the image; partners that cannot be read are drawn again.
        """
        sample = self._load(index, rng)
        # Now, also if the picture will not show it: each unreadable image is to be told once.
        picture = self._compose(_decoded(sample), rng)
        if not self.is_alone:
            if rng.random() < self.config.mixup:
                picture = mixup(rng, picture, self._partner(rng))
            if rng.random() < self.config.cutmix:
                picture = cutmix(rng, picture, self._partner(rng))
        return picture

    def _compose(self, sample: Sample, rng: np.random.Generator) -> Picture:
        """The image under one random affine map, alone or in a mosaic with three others."""
        width, height = self.width, self.height
        if self.is_alone or rng.random() >= self.config.mosaic:
            transform = affine(rng, self.config, (width, height), (width, height))
            return render([letterbox_layer(sample, width, height)], transform, width, height)
        centre = (rng.uniform(0.5, 1.5, 2) * (width, height)).tolist()
        transform = affine(rng, self.config, (2 * width, 2 * height), (width, height))

        def mosaic() -> Picture:
            """With partners drawn now."""
            samples = [sample, *(self._load_any(rng) for _ in range(3))]
            return render(mosaic_layers(samples, *centre, width, height), transform, width, height)

        return _until_readable(mosaic)

    def _partner(self, rng: np.random.Generator) -> Picture:
        return _until_readable(lambda: self._compose(_decoded(self._load_any(rng)), rng))

    def _load_any(self, rng: np.random.Generator) -> Sample:
        if self.partners is None:
            return self._load(int(rng.integers(len(self.dataset))), rng)
        return self._load(int(self.partners[rng.integers(len(self.partners))]), rng)

    def _load(self, index: int, rng: np.random.Generator) -> Sample:
        sample = load_sample(self.dataset, index, self.size)
        if sample.is_turned:
            self.turned.add(sample.image_id)
        return random_crop(rng, sample) if rng.random() < self.config.crop else sample


def _until_readable(draw: Callable[[], Picture]) -> Picture:
    """What `draw` gives at last; an unreadable partner is passed over, for it fails in its own
    turn."""
    for _ in range(_MOST_DRAWS):
        try:
            return draw()
        except UnreadableImage as error:
            last_error = error
    raise last_error


def _decoded(sample: Sample) -> Sample:
    pixels = sample.pixels()
    return sample._replace(pixels=lambda: pixels)


def mosaic_layers(
    samples: list[Sample], centre_x: float, centre_y: float, width: int, height: int
) -> list[Layer]:
    """Four images around one point of a canvas of twice the width and height, each as large as fits
    into width x height.

    They touch at the point and reach outwards, top left, top right, bottom left, bottom right
    (YOLOv4, Bochkovskiy et al. 2020). What reaches over the canvas is seen only if the picture is
    zoomed out that far.
    """
    layers = []
    for position, sample in enumerate(samples):
        box = letterbox(sample.width, sample.height, width, height)
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
    size = np.array(a.image.shape[1::-1])
    sides = np.sqrt(1 - rng.beta(1.0, 1.0)) * size
    centre = rng.uniform(0, size)
    left, top = np.floor((centre - sides / 2).clip(0, size)).astype(int)
    right, bottom = np.ceil((centre + sides / 2).clip(0, size)).astype(int)
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


def _clip_to(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = window
    return boxes.clip((left, top, left, top), (right, bottom, right, bottom))


def _share_inside(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The share (N) of each box's area inside the window."""
    inside = _clip_to(boxes, window)
    return (inside[:, 2:] - inside[:, :2]).prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
