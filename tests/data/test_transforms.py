"""Box arithmetic held against pixels: a bright rectangle on black is followed through each
transform."""

import numpy as np
import pytest

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import Sample
from hvd_yolo.data.loader import EvaluationItems, TrainingItems, training_batches
from hvd_yolo.data.mosaic import cutmix, mixup, mosaic_layers, training_picture
from hvd_yolo.data.order import Dealing, keyed_rng
from hvd_yolo.data.transforms import (
    Picture,
    affine,
    hsv,
    letterbox_layer,
    random_crop,
    render,
    warp_boxes,
)

NOTHING = AugmentConfig(
    mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0, flipud=0
)


def rectangle(width=200, height=120, box=(40, 30, 90, 80), label=1):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return Sample(image, np.array([box], dtype=np.float64), np.array([label]), 1)


def bright_box(image):
    """Where pixels are more than half bright."""
    ys, xs = np.nonzero(image[..., 0] > 190)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float64)


def with_changes(**changes):
    return AugmentConfig(**{**vars(NOTHING), **changes})


def test_no_augmentation_is_the_letterbox():
    sample = rectangle(200, 100, (40, 30, 90, 80))
    layer = letterbox_layer(sample, 100)
    picture = render([layer], affine(keyed_rng(0, 0, 0), NOTHING, 100, 100), 100)
    assert np.allclose(picture.boxes, [[20, 40, 45, 65]])
    assert np.abs(bright_box(picture.image) - picture.boxes[0]).max() <= 1
    assert (picture.image[:24] == 114).all()
    assert (picture.image[76:] == 114).all()
    # Letterboxing an image that fits already copies it to the last pixel.
    same = render([letterbox_layer(rectangle(100, 100), 100)], np.eye(3), 100)
    assert np.array_equal(same.image, rectangle(100, 100).image)


@pytest.mark.parametrize(
    "changes",
    [
        {"translate": 0.2},
        {"scale": 0.5},
        {"fliplr": 1.0},
        {"flipud": 1.0},
        {"fliplr": 1.0, "flipud": 1.0, "translate": 0.1, "scale": 0.3},
    ],
)
def test_upright_boxes_follow_the_pixels(changes):
    config = with_changes(**changes)
    for index in range(8):
        layer = letterbox_layer(rectangle(), 160)
        matrix = affine(keyed_rng(0, 0, index), config, 160, 160)
        picture = render([layer], matrix, 160)
        assert len(picture.boxes) == 1
        assert np.abs(bright_box(picture.image) - picture.boxes[0]).max() <= 1.5


@pytest.mark.parametrize(
    "changes", [{"degrees": 180.0}, {"shear": 20.0}, {"perspective": 0.001, "degrees": 30.0}]
)
def test_turned_boxes_enclose_the_pixels_tightly(changes):
    config = with_changes(**changes)
    for index in range(8):
        layer = letterbox_layer(rectangle(200, 200, (80, 70, 130, 120)), 160)
        matrix = affine(keyed_rng(0, 0, index), config, 160, 160)
        picture = render([layer], matrix, 160)
        assert np.abs(bright_box(picture.image) - picture.boxes[0]).max() <= 2.5


def test_boxes_that_leave_the_picture_are_clipped_or_dropped():
    shift = np.array(((1.0, 0, 60), (0, 1, 0), (0, 0, 1)))
    boxes = np.array([[0, 0, 60, 50], [35, 0, 135, 50], [10, 10, 11, 40], [90, 90, 95, 95.0]])
    warped, is_visible = warp_boxes(boxes, shift, 100, 100)
    # Second: 5 of 100 pixels are left. Third: one pixel wide. Fourth: gone.
    assert is_visible.tolist() == [True, False, False, False]
    assert warped[0].tolist() == [60, 0, 100, 50]


def test_mosaic_tiles_meet_at_the_centre_and_keep_their_boxes():
    samples = [rectangle(label=label) for label in range(4)]
    layers = mosaic_layers(samples, 90.0, 110.0, 100)
    corners = [
        (layer.matrix @ (x, y, 1))[:2]
        for layer, (x, y) in zip(layers, ((200, 120), (0, 120), (200, 0), (0, 0)), strict=True)
    ]
    assert np.allclose(corners, [(90, 110)] * 4)
    picture = render(layers, np.eye(3), 200)
    assert picture.labels.tolist() == [0, 1, 2, 3]
    for box, layer in zip(picture.boxes, layers, strict=True):
        alone = render([layer], np.eye(3), 200)
        assert np.abs(bright_box(alone.image) - box).max() <= 1


def test_random_crop_follows_the_pixels():
    for index in range(12):
        cropped = random_crop(keyed_rng(0, 0, index), rectangle())
        height, width = cropped.image.shape[:2]
        assert 100 <= width <= 200
        assert 60 <= height <= 120
        if len(cropped.boxes):
            assert np.abs(bright_box(cropped.image) - cropped.boxes[0]).max() <= 1e-9


def plain_picture(value, boxes, label):
    image = np.full((100, 100, 3), value, dtype=np.uint8)
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return Picture(image, boxes, np.full(len(boxes), label))


def test_mixup_keeps_both_sets_of_boxes():
    a, b = plain_picture(0, [[0, 0, 10, 10]], 0), plain_picture(200, [[5, 5, 50, 50]], 1)
    mixed = mixup(keyed_rng(0, 0, 0), a, b)
    assert mixed.boxes.tolist() == [[0, 0, 10, 10], [5, 5, 50, 50]]
    assert mixed.labels.tolist() == [0, 1]
    # Beta(32, 32) lies close to one half.
    assert 50 < mixed.image.mean() < 150


def test_cutmix_drops_what_is_covered_and_clips_what_is_pasted():
    grid = [[x, y, x + 10, y + 10] for x in range(0, 100, 10) for y in range(0, 100, 10)]
    a, b = plain_picture(0, grid, 0), plain_picture(200, grid, 1)
    pasted = 0
    for index in range(10):
        mixed = cutmix(keyed_rng(0, 0, index), a, b)
        for box, label in zip(mixed.boxes.astype(int), mixed.labels, strict=True):
            x1, y1, x2, y2 = box
            share_of_b = (mixed.image[y1:y2, x1:x2] == 200).mean()
            assert share_of_b == 1.0 if label == 1 else share_of_b <= 0.5
        pasted += (mixed.labels == 1).any()
    assert pasted >= 5


def test_hsv_changes_colours_within_their_range_only():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert np.array_equal(hsv(keyed_rng(0, 0, 0), NOTHING, image), image)
    darker = hsv(keyed_rng(0, 0, 0), with_changes(hsv_v=0.9), image)
    ratio = darker.max(axis=2).mean() / image.max(axis=2).mean()
    assert 0.1 <= ratio <= 1.9
    assert abs(ratio - 1) > 0.01


def test_pictures_are_functions_of_seed_epoch_and_index():
    dataset = open_dataset("shapes:12", "train")
    config = AugmentConfig(mixup=0.5, cutmix=0.5, degrees=10, crop=0.5)

    def picture(seed, epoch, index):
        rng = keyed_rng(seed, epoch, index)
        return training_picture(dataset, index, rng, config, 64, is_closing=False)

    first = picture(0, 2, 5)
    picture(0, 2, 6)
    again = picture(0, 2, 5)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, picture(0, 3, 5).image)
    assert not np.array_equal(first.image, picture(1, 2, 5).image)


def test_closing_epochs_show_one_image():
    dataset = open_dataset("shapes:12", "train")
    items = TrainingItems(dataset, NOTHING, 96, seed=0, closing_epoch=1)
    items.config = with_changes(mosaic=1.0, mixup=1.0, cutmix=1.0)
    alone = items[(1, 4)]
    expected = EvaluationItems(dataset, 96)[4]
    assert np.array_equal(alone.image, expected.image)
    assert not np.array_equal(items[(0, 4)].image, expected.image)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_do_not_depend_on_workers(num_workers):
    dataset = open_dataset("shapes:12", "train")
    items = TrainingItems(dataset, AugmentConfig(), 64, seed=0, closing_epoch=9)
    dealing = Dealing(num_images=12, global_batch=5, micro_batch=3, size=2)
    batches = training_batches(items, dealing, (0, 5), 1, num_workers, prefetch=2)
    keys = dealing.all_micro_batches(0, 0, 5, 1)
    for _ in range(4):
        batch, wanted = next(batches), next(keys)
        expected = [items[key] for key in wanted]
        assert [item.image_id for item in batch.items] == [item.image_id for item in expected]
        for image, item in zip(batch.images.numpy(), expected, strict=True):
            assert np.array_equal(image, item.image)
