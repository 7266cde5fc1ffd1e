"""Data sets that change under a run."""

import re

import pytest

from tests.cases.running import assert_code, assert_refused, assert_says

BEFORE = r"\bRBC\W+WBC\W+Platelets\b"


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("names_permuted", r"\bWBC\W+RBC\W+Platelets\b"),
        ("names_added", r"\bRBC\W+WBC\W+Platelets\W+Other\b"),
    ],
    ids=["names_permuted", "names_added"],
)
def test_other_class_names_are_refused(cases, name, after):
    begin, _, resume = cases.run(name)
    assert_code(begin, 75)
    assert_refused(resume, BEFORE, after)


def test_another_number_of_images_is_not_overlooked(cases):
    begin, remove, resume = cases.run("images_removed")
    assert_code(begin, 0)
    assert_code(remove, 0)
    if resume.code == 2:
        assert_refused(resume, r"\b8\b", r"\b3\b")
        return
    assert_code(resume, 0)
    text = resume.before_first_update
    assert_says(resume, r"(?m)^.*\b8\b.*\b3\b", text=text)
    counts = re.findall(r"(?m)^update (\d+)/(\d+)", resume.text)
    assert counts and all(int(number) <= int(total) for number, total in counts)
    assert not re.search(r"-\d+:\d+", resume.text)
