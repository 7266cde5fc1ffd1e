"""A space is what it says, or is refused by the name of the key before anything starts."""

import pytest

from hvd_yolo.errors import InputError
from hvd_yolo.tune.space import Choice, Range, check_space, options, read_space


def space_of(tmp_path, text, is_grid=False):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return read_space(str(file), is_grid)


def test_a_number_without_a_point_is_a_number(tmp_path):
    """YAML reads 1e-4 as a word."""
    space = space_of(tmp_path, "optim.lr: {low: 1e-4, high: 1e-2, log: true}\nimgsz: [64, 96]")
    assert space == {"optim.lr": Range(1e-4, 1e-2, 0, True, False), "imgsz": Choice((64, 96))}
    assert space_of(tmp_path, "optim.lr: [1e-4, 1]") == {"optim.lr": Choice((1e-4, 1.0))}


def test_the_points_of_a_grid_are_those_of_the_steps(tmp_path):
    text = "augment.mosaic: {low: 0, high: 1, step: 0.1}\naugment.close_mosaic: {low: 1, high: 3}"
    space = space_of(tmp_path, text, is_grid=True)
    assert space["augment.mosaic"].points() == tuple(i / 10 for i in range(11))
    assert space["augment.close_mosaic"].points() == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.rate: [1, 2]", "optim.rate is no option"),
        ("output: [a, b]", "output is no option"),
        ("optim.name: {low: 1, high: 2}", "optim.name takes no numbers"),
        ("train.sync_bn: [1, 2]", "train.sync_bn: 1 is not of the option's kind, bool"),
        ("epochs: [1.5]", "epochs: 1.5 is not of the option's kind, int"),
        ("epochs: {low: 3, high: 2}", "epochs: low 3, high 2, step 0 leave nothing"),
        ("optim.lr: {low: 0, high: 1, log: true}", "optim.lr: log needs a low above 0"),
        ("optim.lr: {low: 0, high: 1, setp: 1}", "optim.lr: expected a list"),
        ("optim.lr: {low: 1e-4, high: 1e-2}", "optim.lr: a grid needs a list or a step"),
        ("optim.lr: [1, 1.0]", "optim.lr: a value is there twice"),
        ("- optim.lr", "expected a mapping"),
    ],
)
def test_what_is_no_space_is_refused_by_its_key(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        space_of(tmp_path, text, is_grid=True)


@pytest.mark.parametrize(
    ("text", "fixed", "message"),
    [
        ("augment.mosaic: {low: 0, high: 2}", [], "augment.mosaic 2.0 of the space: .*between 0"),
        ("optim.name: [adamw, adam]", [], "optim.name adam of the space"),
        ("imgsz: [64, 100]", [], "imgsz 100 of the space: .*multiple of 32"),
        ("imgsz: [64, 96]", ["--imgsz", "64"], "imgsz is in the space and after --"),
        ("imgsz: [64, 96]", ["--output", "runs/x"], "--output after --"),
        ("imgsz: [64, 96]", ["--epoch", "3"], "unknown key"),
    ],
)
def test_values_that_training_does_not_take_are_refused(tmp_path, text, fixed, message):
    with pytest.raises(InputError, match=message):
        check_space(space_of(tmp_path, text), fixed)


def test_parameters_become_what_training_reads():
    words = options({"optim.lr": 1e-05, "train.sync_bn": True, "optim.name": "sgd", "imgsz": 64})
    check_space({"epochs": Choice((1,))}, words)
    assert words[2:4] == ["--train.sync_bn", "true"]
