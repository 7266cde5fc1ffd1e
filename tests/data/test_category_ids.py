"""The ids of classes whose data set has none."""

import pytest
import yaml

from hvd_yolo.data import open_dataset
from hvd_yolo.data.category_ids import category_ids_of

# Those of instances_val2017.json that have no boxes.
LEFT_OUT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

COCO = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant "
    "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe "
    "backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat "
    "baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl "
    "banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave "
    "oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
NAMES = tuple(name.replace("_", " ") for name in COCO.split())


def test_coco_s_classes_have_coco_s_ids():
    assert category_ids_of(NAMES) == tuple(n for n in range(1, 91) if n not in LEFT_OUT)
    assert category_ids_of(NAMES[::-1]) == category_ids_of(NAMES)[::-1]
    darknet = [name.replace("motorcycle", "motorbike").replace("couch", "sofa") for name in NAMES]
    assert category_ids_of(tuple(darknet)) == category_ids_of(NAMES)


@pytest.mark.parametrize("names", [NAMES[:79], ("person", "dog"), (*NAMES, "other")])
def test_other_classes_are_numbered_from_1(names):
    assert category_ids_of(names) == tuple(range(1, len(names) + 1))


def test_a_yolo_data_set_has_them(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.png").touch()
    (tmp_path / "labels" / "a.txt").write_text("79 0.5 0.5 0.1 0.1\n")
    content = {"train": "images", "names": list(NAMES)}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    assert open_dataset(str(tmp_path / "data.yaml"), "train").category_ids[-1] == 90
