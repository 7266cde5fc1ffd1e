"""Box arithmetic held against pixels: a bright rectangle on black is followed through each
transform."""

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hvd_yolo.config import AugmentConfig
from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import Sample
from hvd_yolo.data.inputs import EvaluationInputs, TrainingInputs
from hvd_yolo.data.loader import training_batches
from hvd_yolo.data.mosaic import Composer, cutmix, mixup, mosaic_layers
from hvd_yolo.data.order import Dealing, Order, keyed_rng
from hvd_yolo.data.rendering import Picture, letterbox_layer, render, warp_boxes
from hvd_yolo.data.transforms import affine, random_crop, recolour

NOTHING = AugmentConfig(
    mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0, flipud=0
)


def rectangle(width=200, height=120, box=(40, 30, 90, 80), label=1):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    boxes = np.array([box], dtype=np.float64)
    return Sample(width, height, boxes, np.array([label]), 1, lambda: image)


def bright_box(image):
    """Where pixels are more than half bright."""
    ys, xs = np.nonzero(image[..., 0] > 190)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float64)


def with_changes(**changes):
    return AugmentConfig(**{**vars(NOTHING), **changes})


def test_no_augmentation_is_the_letterbox():
    sample = rectangle(200, 100, (40, 30, 90, 80))
    layer = letterbox_layer(sample, 100, 100)
    picture = render([layer], affine(keyed_rng(0, 0, 0), NOTHING, (100, 100), (100, 100)), 100, 100)
    assert np.allclose(picture.boxes, [[20, 40, 45, 65]])
    assert np.abs(bright_box(picture.image) - picture.boxes[0]).max() <= 1
    assert (picture.image[:24] == 114).all()
    assert (picture.image[76:] == 114).all()
    # Letterboxing an image that fits already copies it to the last pixel.
    same = render([letterbox_layer(rectangle(100, 100), 100, 100)], np.eye(3), 100, 100)
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
        layer = letterbox_layer(rectangle(), 160, 160)
        matrix = affine(keyed_rng(0, 0, index), config, (160, 160), (160, 160))
        picture = render([layer], matrix, 160, 160)
        assert len(picture.boxes) == 1
        assert np.abs(bright_box(picture.image) - picture.boxes[0]).max() <= 1.5


@pytest.mark.parametrize(
    "changes", [{"degrees": 180.0}, {"shear": 20.0}, {"perspective": 0.001, "degrees": 30.0}]
)
def test_turned_boxes_enclose_the_pixels_tightly(changes):
    config = with_changes(**changes)
    for index in range(8):
        layer = letterbox_layer(rectangle(200, 200, (80, 70, 130, 120)), 160, 160)
        matrix = affine(keyed_rng(0, 0, index), config, (160, 160), (160, 160))
        picture = render([layer], matrix, 160, 160)
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
    layers = mosaic_layers(samples, 90.0, 110.0, 100, 100)
    corners = [
        (layer.matrix @ (x, y, 1))[:2]
        for layer, (x, y) in zip(layers, ((200, 120), (0, 120), (200, 0), (0, 0)), strict=True)
    ]
    assert np.allclose(corners, [(90, 110)] * 4)
    picture = render(layers, np.eye(3), 200, 200)
    assert picture.labels.tolist() == [0, 1, 2, 3]
    for box, layer in zip(picture.boxes, layers, strict=True):
        alone = render([layer], np.eye(3), 200, 200)
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


def recoloured(config, image, index=0):
    out = np.empty_like(image)
    recolour(keyed_rng(0, 0, index), config, image, out)
    return out


def test_colours_change_within_their_range_only():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert np.array_equal(recoloured(NOTHING, image), image[..., ::-1])
    grey = np.full((4, 4, 3), 100, dtype=np.uint8)
    for index in range(20):
        # Grey has no hue and no saturation.
        turned = recoloured(with_changes(hsv_h=0.5, hsv_s=0.9), grey, index)
        assert np.abs(turned.astype(int) - 100).max() <= 1
        value = recoloured(with_changes(hsv_v=0.4), grey, index)
        assert np.ptp(value) == 0
        assert 60 <= value[0, 0, 0] <= 140
    # Half a turn of red is cyan, as far as that can be of the same brightness.
    red = np.zeros((1, 1, 3), dtype=np.uint8)
    red[..., 2] = 90
    hues = [recoloured(with_changes(hsv_h=0.5), red, index)[0, 0] for index in range(40)]
    assert min(int(r) for r, _, _ in hues) == 0
    assert max(int(g) for _, g, _ in hues) > 80


@pytest.mark.parametrize("flips", [{}, {"fliplr": 1.0}, {"flipud": 1.0}])
def test_resizing_upright_layers_draws_what_warping_draws(flips):
    """The two ways agree but for the rounding to whole pixels: at most half of one at each end."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 6)
    boxes = np.array([[20.0, 10, 70, 60]])
    samples = [Sample(120, 90, boxes, np.array([i]), i, lambda: smooth) for i in range(4)]
    for index in range(6):
        layers = mosaic_layers(samples, 150.0, 140.0, 160, 128)
        config = with_changes(scale=0.4, translate=0.1, **flips)
        matrix = affine(keyed_rng(0, 0, index), config, (320, 256), (160, 128))
        # A turn too small to see sends the same picture through the general way.
        tilt = np.eye(3)
        tilt[0, 1] = 1e-9
        resized = render(layers, matrix, 160, 128)
        warped = render(layers, tilt @ matrix, 160, 128)
        assert resized.labels.tolist() == warped.labels.tolist()
        assert np.abs(resized.boxes - warped.boxes).max() <= 1
        difference = np.abs(resized.image.astype(int) - warped.image)
        assert np.median(difference) <= 2
        assert (difference > 16).mean() < 0.04


def test_pictures_are_functions_of_seed_epoch_and_index():
    dataset = open_dataset("shapes:12", "train")
    config = AugmentConfig(mixup=0.5, cutmix=0.5, degrees=10, crop=0.5)
    composer = Composer(dataset, config, 64, 64, 96, is_alone=False)

    def picture(seed, epoch, index):
        return composer.picture(index, keyed_rng(seed, epoch, index))

    first = picture(0, 2, 5)
    picture(0, 2, 6)
    again = picture(0, 2, 5)
    assert first.image.shape == (96, 64, 3)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, picture(0, 3, 5).image)
    assert not np.array_equal(first.image, picture(1, 2, 5).image)


class Watched:
    """A data set that keeps the indices it was asked for, in `asked`."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.asked = []

    def __len__(self):
        return len(self.dataset)

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def scaled(self, index, size):
        self.asked.append(index)
        return self.dataset.scaled(index, size)


def test_mosaic_partners_are_any_images_of_the_data_set():
    """Each partner is uniform over all images, and the three are drawn apart from one another."""
    dataset = Watched(open_dataset("shapes:12", "train"))
    composer = Composer(dataset, AugmentConfig(), 32, 32, 32, is_alone=False)
    for place in range(1200):
        composer.picture(3, keyed_rng(0, 0, place))
    drawn = np.array(dataset.asked).reshape(1200, 4)
    assert (drawn[:, 0] == 3).all()
    counts = np.bincount(drawn[:, 1:].ravel(), minlength=12)
    assert chisquare(counts).pvalue > 0.01
    pairs = np.bincount(drawn[:, 1] * 12 + drawn[:, 2], minlength=144)
    assert chisquare(pairs).pvalue > 0.01


def test_partners_are_drawn_as_often_as_the_weights_ask():
    """An image of weight 0 is in no tile, in mixup and in cutmix neither."""
    dataset = Watched(open_dataset("shapes:12", "train"))
    config = AugmentConfig(mixup=0.5, cutmix=0.5)
    weights = np.array([0.0, 1, 2] * 4)
    inputs = training_inputs(dataset, config, 32, Dealing(12, 12, 12, 1), weights=weights)
    for number in range(9):
        filled(inputs, number)
    assert set(dataset.asked) == set(np.flatnonzero(weights).tolist())


def training_inputs(dataset, config, size, dealing, start=(0, 0), rank=0, closing_epoch=9, **order):
    order = Order(0, len(dataset), size, **order)
    return TrainingInputs(dataset, config, order, dealing, start, rank, closing_epoch)


def filled(inputs, number):
    out = np.empty(inputs.slot_bytes, dtype=np.uint8)
    found = inputs.fill(number, out)
    count = len(found.items) * found.height * found.width * 3
    return out[:count].reshape(-1, found.height, found.width, 3), found


def test_closing_epochs_show_one_image():
    dataset = open_dataset("shapes:12", "train")
    config = with_changes(mosaic=1.0, mixup=1.0, cutmix=1.0)
    inputs = training_inputs(dataset, config, 96, Dealing(12, 12, 12, 1), closing_epoch=1)
    order = inputs.order.epoch(1)
    alone, _ = filled(inputs, 1)
    expected, _ = filled(EvaluationInputs(dataset, 96, [order.tolist()]), 0)
    assert np.array_equal(alone, expected)
    mixed, _ = filled(inputs, 0)
    assert not np.array_equal(mixed[inputs.order.epoch(0).tolist().index(4)], expected[4])


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_do_not_depend_on_workers(num_workers):
    dataset = open_dataset("shapes:12", "train")
    dealing = Dealing(num_images=12, global_batch=5, micro_batch=3, size=2)
    inputs = training_inputs(
        dataset, AugmentConfig(), 64, dealing, start=(0, 5), rank=1, multi_scale=0.5
    )
    cpu = torch.device("cpu")
    batches = training_batches(inputs, num_workers, prefetch=2, device=cpu)
    for number in range(9):
        batch = next(batches)
        pixels, expected = filled(inputs, number)
        assert [item.image_id for item in batch.items] == [i.image_id for i in expected.items]
        assert np.array_equal(batch.images.numpy(), pixels)
