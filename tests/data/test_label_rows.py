"""What a row of a YOLO text file is: a box, a polygon, a box with keypoints, or no label at all."""

import logging
import math

import numpy as np
import pytest

from hvd_yolo.data import open_dataset
from hvd_yolo.data.__main__ import main
from hvd_yolo.errors import InputError
from tests.data.small_files import make_yolo
from tests.data.test_shards import make_shards

PLAIN = "path: .\ntrain: images\nnames: [a, b]\n"


def read(folder, label, kpt_shape=""):
    file = make_yolo(folder, label=label, yaml_text=f"{PLAIN}{kpt_shape}")
    return open_dataset(str(file), "train")


def refusal(folder, label, kpt_shape=""):
    with pytest.raises(InputError) as caught:
        read(folder, label, kpt_shape)
    return str(caught.value)


def problems(dataset):
    return {problem.what: problem.count for problem in dataset.problems}


def pose_row(rng, num_points, num_values, is_hidden_zero=True):
    """A box, and points inside it; some are not labeled and stand at 0 0."""
    box = [*rng.uniform(0.3, 0.7, 2), *rng.uniform(0.05, 0.5, 2)]
    points = []
    for number in range(num_points):
        is_labeled = number < 2 or not is_hidden_zero or rng.random() < 0.7
        x, y = np.array(box[:2]) + rng.uniform(-0.5, 0.5, 2) * box[2:]
        point = [x, y, 1 + number % 2] if is_labeled else [0, 0, 0]
        points += point[:num_values]
    return box, points


def text_of(box, points):
    return " ".join(["0", *(f"{value:.6f}" for value in (*box, *points))])


@pytest.mark.parametrize(("num_points", "num_values"), [(1, 2), (4, 2), (17, 3), (2, 3)])
def test_the_box_of_a_pose_row_is_columns_2_to_5(tmp_path, num_points, num_values):
    rng = np.random.default_rng(num_points)
    rows = [pose_row(rng, num_points, num_values) for _ in range(5)]
    text = "\n".join(text_of(*row) for row in rows)
    dataset = read(tmp_path, text, f"kpt_shape: [{num_points}, {num_values}]\n")
    boxes = np.array([box for box, _ in rows])
    corners = np.hstack((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2))
    truth = dataset.annotations(0, 640, 480)
    assert np.allclose(truth.boxes, corners.clip(0, 1) * (640, 480, 640, 480), atol=1e-3)
    found = dataset.image_keypoints(0, 640, 480)
    points = np.array([points for _, points in rows]).reshape(5, num_points, num_values)
    assert np.allclose(found[..., :2], points[..., :2] * (640, 480), atol=1e-3)
    assert np.array_equal(found[..., 2:], points[..., 2:])


def test_keypoints_stay_with_their_box_when_another_is_left_out(tmp_path):
    rows = ["0 0.5 0.5 0 0.2 0.1 0.1", "1 0.5 0.5 0.2 0.2 0.3 0.4"]
    dataset = read(tmp_path, "\n".join(rows), "kpt_shape: ['1', 2]\n")
    assert dataset.labels.tolist() == [1]
    assert dataset.keypoints.tolist() == [[[0.3, 0.4]]]
    assert read(tmp_path / "none", rows[0][:-8]).keypoints is None


@pytest.mark.parametrize("label", ["0 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2 0.2 0.4 0.4 0.5 0.5 2"])
def test_pose_rows_of_another_length_are_refused(tmp_path, label):
    right = "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.5 0.5 1\n"
    assert "im.txt:2: " in (found := refusal(tmp_path, right + label, "kpt_shape: [2, 3]\n"))
    assert "kpt_shape [2, 3] each row has 11" in found


@pytest.mark.parametrize(
    "shape", ["17", "[17]", "[0, 2]", "[17, 4]", "[x, 2]", "[17, 3, 2]", "[[1], 2]", "[-1, 2]"]
)
def test_a_kpt_shape_that_is_none_is_refused_by_its_key(tmp_path, shape):
    found = refusal(tmp_path, "", f"kpt_shape: {shape}\n")
    assert "data.yaml: kpt_shape is" in found
    assert "[K, 2] or [K, 3]" in found


@pytest.mark.parametrize("num_values", [2, 3])
@pytest.mark.parametrize("num_points", [4, 6, 17])
@pytest.mark.parametrize("is_hidden_zero", [True, False])
def test_keypoints_without_kpt_shape_are_not_read_as_polygons(
    tmp_path, num_points, num_values, is_hidden_zero
):
    rng = np.random.default_rng((num_points, num_values))
    rows = [pose_row(rng, num_points, num_values, is_hidden_zero) for _ in range(20)]
    found = refusal(tmp_path, "\n".join(text_of(*row) for row in rows))
    assert "im.txt:" in found
    assert "kpt_shape" in found


def outline(rng, num_points):
    """A convex polygon, as tools draw them: from any corner on, either way around."""
    center, radii = rng.uniform(0.2, 0.8, 2), rng.uniform(0.02, 0.2, 2)
    angles = np.sort(rng.uniform(0, 2 * math.pi, num_points))[:: rng.choice([1, -1])]
    angles = np.roll(angles, rng.integers(num_points))
    points = center + radii * np.column_stack((np.cos(angles), np.sin(angles)))
    return points.clip(0, 1)


@pytest.mark.parametrize("num_points", [3, 4, 5, 6, 8, 20])
def test_polygons_of_one_length_are_not_taken_for_keypoints(tmp_path, num_points):
    rng = np.random.default_rng(num_points)
    outlines = [outline(rng, num_points) for _ in range(30)]
    text = "\n".join(text_of(points.ravel(), []) for points in outlines)
    expected = [[*points.min(0), *points.max(0)] for points in outlines]
    assert np.allclose(read(tmp_path, text).boxes, expected, atol=1e-5)


def test_boxes_and_polygons_may_be_mixed(tmp_path):
    rows = ["0.0 0.5 0.5 0.2 0.2", "1\t0.1\t0.1\t0.3\t0.1\t0.3\t0.4", "0 0 0 1 0 1 1 0 1"]
    dataset = read(tmp_path, "\n".join(rows))
    assert np.allclose(dataset.boxes, [[0.4, 0.4, 0.6, 0.6], [0.1, 0.1, 0.3, 0.4], [0, 0, 1, 1]])


BAD_ROWS = [
    ("0", "1 columns"),
    ("0 0.5", "2 columns"),
    ("0 0.5 0.5 0.2", "4 columns"),
    ("0 0.5 0.5 0.2 0.2 0.93", "6 columns, as predictions have them"),
    ("0 0.5 0.5 0.2 0.2 7", "6 columns"),
    ("0 0.5 0.5 0.2 0.2 0.9 7", "7 columns, one outside 0 to 1"),
    ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 columns"),
    ("0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.5 0.5 1", "kpt_shape: [2, 3]"),
    ("0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.5 0.5 1 0 0 0", "kpt_shape: [3, 3]"),
    ("0 80 60 20 20", "80 where shares of 0 to 1 are expected; these look like pixels"),
    ("0 0.5 0.5 0.2 20", "look like pixels"),
    ("0 1.5 0.5 0.2 0.2", "look like pixels"),
    ("0 80 60 90 60 90 80 70 75", "look like pixels"),
    ("0 80 60 90 60 90 80", "look like pixels"),
    ("0 -0.2 0.5 0.2 0.2", "-0.2 where shares of 0 to 1"),
    ("0 0.5 0.5 -0.2 0.2", "-0.2 where shares of 0 to 1"),
    ("0 0,5 0,5 0,2 0,2", "a decimal point"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS)
def test_what_is_no_label_is_refused_by_its_line(tmp_path, row, expected):
    found = refusal(tmp_path, f"0 0.5 0.5 0.1 0.1\n\n{row}\n")
    assert "labels/im.txt:3: " in found
    assert expected in found


@pytest.mark.parametrize(("row", "expected"), BAD_ROWS[::3])
def test_shards_refuse_the_same_rows(tmp_path, row, expected):
    members = [("im.jpg", b""), ("im.txt", f"0 0.5 0.5 0.1 0.1\n{row}\n".encode())]
    with pytest.raises(InputError, match=r"im\.txt:2: ") as caught:
        open_dataset(str(make_shards(tmp_path, members)), "train")
    assert expected in str(caught.value)


@pytest.mark.parametrize("excess", [1e-7, 1e-3, 0.02])
def test_a_little_outside_is_clipped_and_counted(tmp_path, excess, caplog):
    rows = [f"0 0.5 0.5 {1 + excess} 0.5", f"1 0.5 0.5 {1 + excess} 0.7 0.8 {-excess} 0.2 0.3"]
    with caplog.at_level(logging.WARNING):
        dataset = read(tmp_path, "\n".join(rows))
    assert len(dataset.boxes) == 2
    assert ((dataset.boxes >= 0) & (dataset.boxes <= 1)).all()
    clipped = problems(dataset).get("boxes partly outside the image, clipped", 0)
    assert clipped == (0 if excess < 1e-6 else 2)


def test_converting_says_that_keypoints_are_left_out(tmp_path, capsys):
    read(tmp_path / "from", "0 0.5 0.5 0.2 0.2 0.4 0.4", "kpt_shape: [1, 2]\n")
    source, target = str(tmp_path / "from" / "data.yaml"), str(tmp_path / "to")
    main(["convert", "--data", source, "--to", "yolo", "--output", target])
    assert "not held by yolo: keypoints of objects, left out: 1" in capsys.readouterr().out
    assert open_dataset(f"{target}/data.yaml", "train").keypoints is None
