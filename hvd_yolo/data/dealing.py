"""Images dealt anew to train, val and test."""

import numpy as np

from hvd_yolo.data.order import keyed_rng
from hvd_yolo.errors import InputError

SPLITS = ("train", "val", "test")


def read_shares(text: str) -> dict[str, float]:
    """`0.8,0.1,0.1` as the share of each split, those of 0 left out; raises InputError."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not (2 <= len(shares) <= len(SPLITS) and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6):
        raise InputError(
            f"shares is {text!r}, expected two or three numbers with the sum 1, as 0.8,0.1,0.1"
        )
    return {split: share for split, share in zip(SPLITS, shares, strict=False) if share > 0}


def deal(
    pixels: np.ndarray, labels: list[np.ndarray], shares: dict[str, float], seed: int
) -> list[str]:
    """The split of each of N images; images with the same `pixels` (N), a hash, stay together.

    labels: the classes on each image (N). The images are put in a row by the rarest class on them,
    at random within it, and the row is dealt by the shares: so each class is divided by them too,
    the rarest best. Raises InputError when a split would be empty.
    """
    _, first, group_of_image = np.unique(pixels, return_index=True, return_inverse=True)
    group_sizes = np.bincount(group_of_image)
    rarest = _rarest_class(labels)[first]
    order = keyed_rng(seed, 0, 0).permutation(len(first))
    order = order[np.argsort(rarest[order], kind="stable")]
    wanted = np.array(list(shares.values()))
    dealt = np.zeros(len(shares))
    split_of_group = np.zeros(len(first), dtype=np.int64)
    for group in order:
        shortfall = wanted * (dealt.sum() + group_sizes[group]) - dealt
        split_of_group[group] = np.argmax(shortfall)
        dealt[split_of_group[group]] += group_sizes[group]
    names = list(shares)
    if not dealt.all():
        raise InputError(
            f"shares: the {names[int(np.argmin(dealt))]} split of {len(pixels)} images would be "
            "empty: give it more, or 0"
        )
    return [names[number] for number in split_of_group[group_of_image]]


def _rarest_class(labels: list[np.ndarray]) -> np.ndarray:
    """(N): the place of an image's rarest class among the classes by number of images; images
    without objects come last."""
    present = [np.unique(on_image) for on_image in labels]
    num_images = np.bincount(np.concatenate(present).astype(np.int64))
    place = np.argsort(np.argsort(num_images, kind="stable"), kind="stable")
    return np.array([place[own].min(initial=len(place)) for own in present])
