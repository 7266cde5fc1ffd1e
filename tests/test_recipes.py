"""The files in configs/: what they say is so, and they start."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from hvd_yolo import checkpoint, config
from hvd_yolo.models import build_model
from tests.conftest import REPOSITORY, train

RECIPES = sorted((REPOSITORY / "configs").glob("*.yaml"))
QUICK = ("--data", "shapes:16", "--imgsz", "64", "--max_updates", "2", "--workers", "0")


def flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_loads_and_says_what_differs(file):
    loaded = config.load(["--config", str(file)])
    with torch.device("meta"):
        build_model(loaded.model)
    defaults, loaded = config.flatten(config.Config()), config.flatten(loaded)
    for key, value in flat(yaml.safe_load(file.read_text())):
        assert loaded[key] == value
        # What is trained on what is said in any case.
        assert value != defaults[key] or key in ("model", "data"), f"{key} is the default"


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_tells_commands_cost_and_result(file):
    head = re.match(r"(#.*\n)+", file.read_text()).group()
    assert f"configs/{file.name}" in head
    assert "horovodrun" in head
    assert "has not been run" in head or re.search("Costs .*[Rr]eaches AP", head, re.DOTALL)
    for option in re.findall(r"--([a-z_]+(?:\.[a-z_]+)?) ", head):
        known = config.flatten(config.Config()).keys() | {"config", "gloo", "run", "link"}
        assert option in known, option


def test_every_size_of_yolov8_has_its_recipe_for_coco():
    names = {config.load(["--config", str(file)]).model for file in RECIPES if "coco" in file.stem}
    assert {f"yolov8{size}" for size in "nsmlx"} | {"yolov8l-p6"} <= names


def test_the_first_recipe_starts(tmp_path):
    recipe = str(Path("configs", "shapes_yolov8n.yaml"))
    train(1, tmp_path, "--config", recipe, *QUICK, "--eval.every", "0")


def test_fine_tuning_starts_from_a_checkpoint_and_keeps_its_backbone(tmp_path):
    train(1, tmp_path / "first", *QUICK, "--batch_size", "8", "--eval.every", "0")
    first = tmp_path / "first" / "checkpoints" / "last.pt"
    recipe = ("--config", "configs/finetune.yaml", "--weights", str(first), "--batch_size", "8")
    train(1, tmp_path / "second", *QUICK, *recipe, "--eval.every", "0", "--seed", "1")
    before = checkpoint.load(first)["weights"]
    after = checkpoint.load(tmp_path / "second" / "checkpoints" / "last.pt")["training"]["model"]
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in before if name.startswith("backbone.")} <= same
    # The coarsest level answers for large objects, of which so few images may have none.
    heads = ("head.box_towers.0.", "head.class_towers.")
    assert not {name for name in before if name.startswith(heads) and "weight" in name} & same
