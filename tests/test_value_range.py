"""Training, evaluation and prediction see images of 12 bits as they see their 8-bit twins, with one
range on all ranks."""

import json

import cv2
import numpy as np
import pytest

from hvd_yolo import checkpoint
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import AugmentConfig, EvalConfig, FuseConfig, from_yaml
from hvd_yolo.data import open_dataset
from hvd_yolo.data.inputs import TrainingInputs
from hvd_yolo.data.loader import evaluation_batches
from hvd_yolo.data.order import Dealing, Order
from hvd_yolo.data.source_files import find_files
from hvd_yolo.data.sources import Sources
from hvd_yolo.errors import InputError
from hvd_yolo.value_range import range_as_trained, share_value_range
from hvd_yolo.weights.trained import open_ensemble
from tests.conftest import needs_mpi, run_job, train
from tests.data.small_files import deep, encode, make_deep, picture, with_white

QUICK = ("--imgsz", "64", "--max_updates", "2", "--batch_size", "2", "--device", "cpu")


def pictures():
    return [with_white(picture(width)) for width in (64, 56, 48, 60)]


@pytest.fixture
def twins(tmp_path):
    """data.yaml of the same pictures in 8 and in 12 bits."""
    return [
        make_deep(tmp_path / name, pictures(), to_bytes)
        for name, to_bytes in (
            ("8", lambda image: encode(".png", image)),
            ("12", lambda image: encode(".png", deep(image, 12))),
        )
    ]


def training_inputs(data, comm):
    """The pixels of the first updates, mosaic and colors included."""
    train_set = open_dataset(data, "train")
    share_value_range((train_set, open_dataset(data, "val")), 0.0, comm)
    inputs = TrainingInputs(
        train_set, AugmentConfig(), Order(0, 4, 64), Dealing(4, 2, 2, 1), (0, 0), 0, 99
    )
    slot = np.zeros(inputs.slot_bytes, dtype=np.uint8)
    pixels = []
    for number in range(4):
        inputs.fill(number, slot)
        pixels.append(slot[: 2 * 64 * 64 * 3].copy())
    return np.concatenate(pixels).astype(int)


def evaluation_inputs(dataset, trained_range, comm, num_workers):
    range_as_trained([dataset], trained_range, comm)
    batches = evaluation_batches(dataset, 64, 4, 0, 1, num_workers)
    return np.concatenate([batch.images.numpy().copy() for batch in batches]).astype(int)


def sources_of(folder):
    found = find_files(str(folder))
    return Sources(found, [0] * len(found.files), ("a",), (1,))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_model_gets_the_pixels_of_the_8_bit_twin(twins, tmp_path, num_workers):
    comm = SingleComm()
    plain, wide = (training_inputs(data, comm) for data in twins)
    assert plain.max() > 200
    assert np.abs(plain - wide).max() <= 1
    for trained_range in (0.0, 4095.0):
        val = [
            evaluation_inputs(open_dataset(data, "val"), trained_range, comm, num_workers)
            for data in twins
        ]
        assert np.abs(val[0] - val[1]).max() <= 1
        seen = [
            evaluation_inputs(
                sources_of(tmp_path / bits / "images/val"),
                trained_range, comm, num_workers,
            )
            for bits in ("8", "12")
        ]  # fmt: skip
        assert np.abs(seen[0] - seen[1]).max() <= 1
        assert np.abs(seen[0] - val[0]).max() == 0


def test_the_range_of_the_training_holds_for_darker_pictures(tmp_path):
    """Of its own, the evening would be as bright as the day."""
    evening = [(image // 16).astype(np.uint8) for image in pictures()]
    data = make_deep(tmp_path, evening, lambda image: encode(".png", deep(image, 12)))
    val_set = open_dataset(data, "val")
    range_as_trained([val_set], 4095.0, SingleComm())
    assert np.array_equal(val_set.image(0), evening[0])
    sources = sources_of(tmp_path / "images/val")
    range_as_trained([sources], 4095.0, SingleComm())
    assert np.array_equal(sources.image(0), evening[0])


def test_a_resumed_run_keeps_its_range_and_refuses_another(twins, tmp_path):
    run = tmp_path / "run"
    data = ("--data", twins[1], "--workers", "0")
    train(1, run, *data, *QUICK, "--eval.every", "0")
    again = ("-m", "hvd_yolo.train", "--resume", str(run), "--device", "cpu")
    assert run_job(1, [*again, "--loader.value_range", "0"]).returncode == 0
    assert "value_range: 4095.0" in (run / "config.yaml").read_text()
    done = run_job(1, [*again, "--loader.value_range", "1023"])
    assert done.returncode == 2
    assert "loader.value_range is 1023.0" in done.stderr
    # Nor do two detectors look at one image that saw it differently.
    last, other = run / "checkpoints" / "last.pt", tmp_path / "other.pt"
    content = checkpoint.load(last)
    other_config = content["config"].replace("value_range: 4095.0", "value_range: 1023.0")
    checkpoint.save(other, {**content, "config": other_config})
    limits = EvalConfig()
    with pytest.raises(InputError, match="value_range 1023 and 4095"):
        open_ensemble(f"{last},{other}", FuseConfig(), limits)


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=needs_mpi)])
def test_a_run_on_12_bits_says_its_range_and_its_checkpoint_predicts_with_it(
    num_ranks, twins, tmp_path
):
    # White is in one image of the val split only, which is the share of one rank.
    for split, kept in (("train", ()), ("val", (3,))):
        for number, image in enumerate(pictures()):
            shown = image if number in kept else image // 3
            cv2.imwrite(str(tmp_path / f"12/images/{split}/{number}.png"), deep(shown, 12))
    run, seen = tmp_path / "run", tmp_path / "seen"
    printed = train(num_ranks, run, "--data", twins[1], *QUICK, "--workers", "1")
    assert "value range: 0 to 4095 in all images of more than 8 bits" in printed
    best = run / "checkpoints" / "best.pt"
    assert from_yaml(checkpoint.load(best)["config"]).loader.value_range == 4095
    source = str(tmp_path / "12/images/train")
    verb = ("-m", "hvd_yolo.predict", "--weights", str(best), "--source", source)
    device = ("--device", "cpu", "--workers", "1")
    done = run_job(num_ranks, [*verb, *device, "--output", str(seen), "--conf", "0.99"])
    assert done.returncode == 0, done.stderr
    for number, image in enumerate(pictures()):
        drawn = cv2.imread(str(seen / "images" / f"{number}.png"))
        assert np.abs(drawn.astype(int) - image // 3).max() <= 1
    verb = ("-m", "hvd_yolo.evaluate", "--weights", str(best), *device)
    done = run_job(num_ranks, verb)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout.splitlines()[-1])
    trained = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics["AP"] == [line for line in trained if line["kind"] == "eval"][-1]["AP"]
