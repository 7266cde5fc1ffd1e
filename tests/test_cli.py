"""How verbs end: without a reader of what they print, and at words that are no options."""

import subprocess
import sys

import pytest

from hvd_yolo.config import Config, EvaluateConfig, ExportConfig, PredictConfig, parse
from hvd_yolo.errors import InputError
from tests.conftest import REPOSITORY, job_environment

VERBS = {
    "help": ["hvd_yolo.train", "--help"],
    "help of data": ["hvd_yolo.data", "--help"],
    "check": ["hvd_yolo.data", "check", "--data", "shapes:4"],
    "stats": ["hvd_yolo.data", "stats", "--data", "shapes:4"],
    "doctor": ["hvd_yolo.doctor", "--device", "cpu", "--link_seconds", "0"],
}


@pytest.mark.parametrize(("verb", "unbuffered"), [*((verb, "") for verb in VERBS), ("check", "1")])
def test_a_reader_that_goes_away_is_no_error(verb, unbuffered):
    process = subprocess.Popen(
        [sys.executable, "-m", *VERBS[verb]], cwd=REPOSITORY, text=True,
        env=job_environment(PYTHONUNBUFFERED=unbuffered),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    # Of a help text argparse itself lets it pass.
    assert process.wait(120) == (0 if verb == "help" else 141), stderr
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr


def test_a_training_goes_on_without_a_reader(tmp_path):
    # At 32 pixels BatchNorm has a single value a channel, too.
    options = ("--data", "shapes:4", "--imgsz", "32", "--batch_size", "1", "--max_updates", "2",
               "--workers", "0", "--device", "cpu", "--report.plots", "false")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "hvd_yolo.train", *options, "--output", str(tmp_path)],
        cwd=REPOSITORY, env=job_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(120) == 0, stderr
    assert stderr == ""
    assert (tmp_path / "checkpoints" / "last.pt").is_file()


@pytest.mark.parametrize(
    ("kind", "words", "told"),
    [
        (Config, "--batch 4", "--batch: did you mean --batch_size?"),
        (Config, "--batch-size 4", "did you mean --batch_size?"),
        (Config, "--batch-size=4 --img 64", "did you mean --batch_size?; --img: did you mean --im"),
        (Config, "--lr0 0.1", "did you mean --optim.lr?"),
        (Config, "--optim.lrr 0.1", "did you mean --optim.lr?"),
        (Config, "--epoch 3", "did you mean --epochs?"),
        (Config, "--patience 3", "did you mean --eval.patience?"),
        (Config, "--cache", "did you mean --loader.cache?"),
        (Config, "--project runs", "did you mean --output?"),
        (Config, "--nproc_per_node 2", "the launcher starts the ranks: horovodrun -np N"),
        (Config, "epochs=3", "options are written --epochs 3"),
        (Config, "batch=3", "did you mean --batch_size?"),
        (Config, "-b 3", "did you mean --batch_size?"),
        (Config, "--device 0,1", "CUDA_VISIBLE_DEVICES=0,1"),
        (Config, "--train.amp true", "take bf16, fp16 or auto"),
        (Config, "--optim sgd", "the optimizer is --optim.name"),
        (EvaluateConfig, "--conf-thres 0.1", "did you mean --eval.conf?"),
        (PredictConfig, "--conf_thres 0.1", "did you mean --conf?"),
        (PredictConfig, "--max_det 10", "did you mean --max_detections?"),
        (PredictConfig, "--model a.pt", "did you mean --weights?"),
        (ExportConfig, "--include onnx", "did you mean --format?"),
        (ExportConfig, "--nms", "write --nms true"),
    ],
)
def test_words_of_other_tools_are_understood(kind, words, told):
    with pytest.raises(InputError) as caught:
        parse(kind, words.split(), "hvd_yolo.verb")
    assert told in str(caught.value)


def test_keys_of_a_file_are_understood(tmp_path):
    file = tmp_path / "args.yaml"
    for text, told in (("lr0: 1\n", "did you mean optim.lr?"), ("optim: {lrr: 1}\n", "optim.lr?")):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            parse(Config, ["--config", str(file)], "hvd_yolo.train")
        assert told in str(caught.value)
