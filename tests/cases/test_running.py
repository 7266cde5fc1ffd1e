"""That the judges of the cases tell right results from wrong ones."""

import pytest

from tests.cases.running import Done, are_same_boxes, assert_refused, assert_same_boxes

ROWS = [[0, 1.0, 2.0, 3.0, 4.0], [0, 1.0, 2.0, 3.0, 4.0], [2, 5.0, 6.0, 7.5, 8.0]]


@pytest.mark.parametrize(
    ("found", "is_same"),
    [
        (ROWS[::-1], True),
        ([*ROWS[:2], [2, 5.009, 6.0, 7.5, 8.0]], True),
        ([*ROWS[:2], [2, 5.011, 6.0, 7.5, 8.0]], False),
        ([*ROWS[:2], [1, 5.0, 6.0, 7.5, 8.0]], False),
        (ROWS[1:], False),
        ([ROWS[0], ROWS[2], ROWS[2]], False),
        ([*ROWS, ROWS[0]], False),
    ],
)
def test_boxes_are_compared_as_sets_with_repeats(found, is_same):
    assert are_same_boxes(found, ROWS) is is_same


def test_images_that_are_missing_or_too_many_are_faults():
    assert_same_boxes({"a.jpg": ROWS}, {"a.jpg": ROWS})
    for found in ({}, {"a.jpg": ROWS, "b.jpg": []}):
        with pytest.raises(AssertionError):
            assert_same_boxes(found, {"a.jpg": ROWS})


def test_a_refusal_is_one_message_with_exit_code_2():
    message = "hvd_yolo: error: labels/a.txt:1: 7 columns\n"
    assert_refused(Done("train", 2, f"noise\n{message}"), r"a\.txt:1\b", r"\b7\b")
    for code, text in ((1, message), (2, message * 2), (2, "labels/a.txt:1: 7 columns\n")):
        with pytest.raises(AssertionError):
            assert_refused(Done("train", code, text), r"\b7\b")
    with pytest.raises(AssertionError):
        assert_refused(Done("train", 2, f"a.txt:1\n{message}"), r"\b9\b")


def test_what_comes_before_the_first_update_ends_there():
    done = Done("train", 0, "warning: a\nupdate 1/2 loss 1\nwarning: b\n")
    assert done.before_first_update == "warning: a\n"
    assert done._replace(text="warning: a\n").before_first_update == "warning: a\n"
