"""The options of training that are about its images: augmentation, loader and order."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class AugmentConfig:
    """What happens to a training image; probabilities and ranges in the words of Ultralytics.

    Args:
        mosaic: probability of putting four images together.
        close_mosaic: the last so many epochs see no mosaic, mixup or cutmix.
        mixup: probability of blending in a second picture.
        cutmix: probability of pasting a rectangle of a second picture.
        degrees: rotation by an angle drawn from +-degrees.
        translate: shift by up to this share of the image.
        scale: zoom drawn from 1 - scale to 1 + scale.
        shear: shear by an angle drawn from +-shear degrees, along x and along y.
        perspective: perspective coefficients drawn from +-perspective (at most 0.001).
        crop: probability of taking a random crop of an image, half to all of each side.
        hsv_h: hue shift, drawn from +-hsv_h of the circle.
        hsv_s: saturation gain, drawn from 1 +- hsv_s.
        hsv_v: value gain, drawn from 1 +- hsv_v.
        fliplr: probability of a horizontal flip.
        flipud: probability of a vertical flip.
    """

    mosaic: float = 1.0
    close_mosaic: int = 10
    mixup: float = 0.0
    cutmix: float = 0.0
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    crop: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    fliplr: float = 0.5
    flipud: float = 0.0


@dataclass
class LoaderConfig:
    """How images reach the training loop; only value_range changes what the model sees.

    Args:
        cache: images decoded and cut to size once for all ranks of a node, on disk (kept for the
            next run) or in ram (/dev/shm, until the last run that uses it ends); none: decoded
            each time.
        folder: of the cache; empty: /var/tmp/hvd_yolo-UID for disk, /dev/shm/hvd_yolo-UID for ram.
        stage: folder on a fast local disk to which the image files are copied once for all ranks
            of a node, for data on a network file system; empty: read where they lie.
        prefetch: batches each worker reads ahead.
        pin_memory_mb: the most page-locked memory for batches that a rank with a GPU may take, in
            MB; fewer workers are started where it does not suffice. 0: an equal part for each rank
            of a quarter of the memory that is free on its host.
        max_unreadable: unreadable images of an epoch, all ranks together, that are named and
            skipped before the run ends with an error: below 1 a fraction of the images of the
            split, rounded up; from 1 on a count; 0 allows none. All images of a split are never
            within the limit.
        value_range: the value that is white in images of more than 8 bits per sample: 4095 for 12
            bits in files of 16, 1 for floating-point shares; the checkpoint keeps it for evaluation
            and prediction. 0: the full scale of the least bit depth, 8, 10, 12, 14, 16 or more,
            that holds the largest value of the data set.
    """

    cache: Literal["none", "ram", "disk"] = "none"
    folder: str = ""
    stage: str = ""
    prefetch: int = 2
    pin_memory_mb: float = 0.0
    max_unreadable: float = 0.01
    value_range: float = 0.0


def num_unreadable_allowed(max_unreadable: float, num_images: int) -> int:
    """Return how many of the images of a split may be unreadable; never all of them.

    max_unreadable: a fraction below 1, of which one bad file in a small split does not exceed any
    but 0, or else a count.
    """
    limit = max_unreadable
    if max_unreadable < 1:
        # Rounded first: 0.07 x 100 is a little more than 7.
        limit = math.ceil(round(max_unreadable * num_images, 6))
    return max(0, int(min(limit, num_images - 1)))


@dataclass
class OrderConfig:
    """Which images an update takes, and how large; the same on any number of ranks.

    Args:
        rect: an update takes images of like shape, and its input is the smallest rectangle that
            holds them; without mosaic, mixup and cutmix. Needs global_batch.
        multi_scale: the input size of each update is drawn from imgsz x (1 -+ this share).
        class_balance: images with rare classes are drawn more often, with replacement, by the
            (f_max / f)^class_balance of their rarest class, f the share of images that have it;
            0.5 is the square root of LVIS, 0 draws each image once an epoch.
        image_weights: text file, `NAME WEIGHT` a line: an image's file name and how often it is
            drawn against those without a line, which have weight 1.
    """

    rect: bool = False
    multi_scale: float = 0.0
    class_balance: float = 0.0
    image_weights: str = ""
