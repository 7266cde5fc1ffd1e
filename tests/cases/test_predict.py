"""What `predict` reads and writes: names that meet, its own input, and the frames of videos."""

import re
from collections import Counter

import cv2
import pytest

from tests.cases.running import assert_code, assert_refused


def files_below(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_images_of_the_same_name_keep_their_outputs(weights):
    for done in weights.run("same_names"):
        assert_code(done, 0)
    for name, number in (("same_names_pattern", 3), ("same_names_folder", 5)):
        folder = weights.run_folder(name)
        assert len(files_below(folder / "images")) == number
        assert len(files_below(folder / "labels")) == number
        results = weights.results(f"{name}/detections.json")
        pairs = {(result["image_id"], result["file_name"]) for result in results}
        assert len(pairs) == number
        assert set(Counter(file for _, file in pairs).values()) == {1}


def test_predict_does_not_write_where_it_reads(weights):
    folder = weights.folder / "predict_in_place"
    before = files_below(folder)
    predict, sums = weights.run("predict_in_place")
    assert_refused(predict, "output")
    assert_code(sums, 0)
    assert files_below(folder) == before


FRAMES = 40


def shown_number(image):
    """What the six bars of a frame say, the lowest bit at the left."""
    bars = (image[12:36, 7 + 10 * bit : 9 + 10 * bit].mean() > 130 for bit in range(6))
    return sum(1 << bit for bit, is_light in enumerate(bars) if is_light)


def numbers_read(file):
    """What the frames show that OpenCV reads one after the other."""
    video, numbers = cv2.VideoCapture(str(file)), []
    while (frame := video.read()[1]) is not None:
        numbers.append(shown_number(frame))
    video.release()
    return numbers


@pytest.mark.parametrize("place", range(4), ids=["plain", "count", "place", "cut"])
def test_each_frame_of_a_video_is_the_next_one(weights, place):
    name = ("plain.avi", "count.mpg", "place.mpg", "cut.avi")[place]
    source = weights.folder / "videos" / name
    if not source.is_file():
        pytest.skip(f"this OpenCV does not write {name}")
    done = weights.run("videos")[place]
    assert_code(done, 0)
    expected = numbers_read(source)
    assert len(expected) == FRAMES or name == "cut.avi"
    stem = source.stem
    images = files_below(weights.run_folder(f"videos_{stem}") / "images")
    assert [file.name for file in images] == [
        f"{stem}_{number:06}.jpg" for number in range(1, len(expected) + 1)
    ]
    assert [shown_number(cv2.imread(str(file))) for file in images] == expected
    if name == "cut.avi":
        assert f"{FRAMES} images" not in done.text
        # Not what OpenCV prints of its own, nor the last line.
        lines = [line for line in done.text.splitlines() if re.search(r"cut(\.avi|_\d)", line)]
        ends = [line for line in lines if not re.search(r"\d+ detections", line)]
        assert len(ends) == 1, done.text
