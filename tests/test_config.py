import dataclasses
import math

import pytest
import yaml

from hvd_yolo import config
from hvd_yolo.errors import InputError
from hvd_yolo.start import refuse_unsaid


def refusal(*argv):
    with pytest.raises(InputError) as caught:
        config.load(argv)
    return str(caught.value)


def test_file_then_command_line(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("epochs: 7\nimgsz: 320\noptim:\n  lr: 0.5\n")
    loaded = config.load(["--config", str(file), "--imgsz", "64", "--optim.momentum", "0.8"])
    assert (loaded.epochs, loaded.imgsz) == (7, 64)
    assert (loaded.optim.lr, loaded.optim.momentum) == (0.5, 0.8)


def test_every_key_survives_yaml():
    changed = config.load(["--seed", "3", "--augment.mosaic", "0.25", "--train.sync_bn", "true"])
    assert config.from_yaml(config.to_yaml(changed)) == changed
    assert yaml.safe_load(config.to_yaml(changed))["augment"]["mosaic"] == 0.25


def test_unknown_keys_are_named(tmp_path):
    assert "--epoch" in refusal("--epoch", "3", "--mixupp", "1")
    assert "--optim.lrr" in refusal("--optim.lrr", "1")
    file = tmp_path / "recipe.yaml"
    file.write_text("optim:\n  lrr: 1\n")
    assert "lrr" in refusal("--config", str(file))


def test_wrong_types_and_values_are_named():
    assert '"epochs"' in refusal("--epochs", "many")
    assert '"device"' in refusal("--device", "gpu")
    assert "batch_size is 0" in refusal("--batch_size", "0")
    assert "batch_size is -2" in refusal("--batch_size", "-2")
    amp = ("--train.dtype", "float64", "--train.amp", "bf16")
    assert "train.amp needs train.dtype float32" in refusal(*amp)
    assert "multiple of 32" in refusal("--imgsz", "100")
    assert "train.accumulate" in refusal("--global_batch", "8", "--train.accumulate", "2")


def test_missing_config_file_is_named(tmp_path):
    assert "none.yaml" in refusal("--config", str(tmp_path / "none.yaml"))


def test_resume_takes_the_runs_own_config(tmp_path):
    first = config.load(["--imgsz", "96", "--output", str(tmp_path)])
    (tmp_path / "config.yaml").write_text(config.to_yaml(first))
    assert config.load(["--resume", str(tmp_path)]).imgsz == 96
    # An output folder with a run in it is continued without being asked.
    again = config.load(["--output", str(tmp_path), "--report.every", "1"])
    assert (again.imgsz, again.resume, again.report.every) == (96, str(tmp_path), 1)


def test_resume_refuses_changed_mathematics_unless_overridden(tmp_path):
    first = config.load(["--model", "yolov8n", "--output", str(tmp_path)])
    (tmp_path / "config.yaml").write_text(config.to_yaml(first))
    message = refusal("--resume", str(tmp_path), "--model", "yolov8s")
    assert "model is 'yolov8s'" in message
    assert "--override model" in message
    changed = ["--resume", str(tmp_path), "--optim.lr", "0.3", "--override", "optim.lr"]
    assert config.load(changed).optim.lr == 0.3
    assert "no such key" in refusal("--resume", str(tmp_path), "--override", "lrr")
    assert "no run there" in refusal("--resume", str(tmp_path / "elsewhere"))


def test_a_resumed_run_keeps_what_it_chose_by_itself(tmp_path):
    """The same command again asks to choose; the run's own folder knows the choice."""
    command = ["--train.amp", "auto", "--batch_size", "-1", "--output", str(tmp_path)]
    first = config.load(command)
    assert (first.train.amp, first.batch_size) == ("auto", -1)
    first.train.amp, first.batch_size = "bf16", 24
    (tmp_path / "config.yaml").write_text(config.to_yaml(first))
    for again in (command, ["--resume", str(tmp_path)]):
        loaded = config.load(again)
        assert (loaded.train.amp, loaded.batch_size) == ("bf16", 24)
    assert "train.amp is 'none'" in refusal("--resume", str(tmp_path), "--train.amp", "none")
    anew = config.load([*command, "--override", "batch_size"])
    assert (anew.train.amp, anew.batch_size) == ("bf16", -1)


def test_help_shows_every_option_with_a_line(capsys):
    with pytest.raises(SystemExit) as ended:
        config.load(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for key, value in config.flatten(config.Config()).items():
        assert f"--{key} " in shown, key
        section = shown.split(f"--{key} ")[-1]
        line = section.split("(type")[0].split("(default")[0]
        assert len(line.split()) > 3, f"{key} ({value}) has no description"


def test_where_ranks_meet_may_not_change_on_resume(tmp_path):
    """It is free to choose where ranks keep nothing to themselves."""
    for name, options in (("plain", []), ("topk", ["--comm.compression", "topk"])):
        loaded = config.load(["--output", str(tmp_path / name), *options])
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config.to_yaml(loaded))
    changed = ["--comm.groups", "2", "--checkpoint.every_updates", "7"]
    assert config.load(["--resume", str(tmp_path / "plain"), *changed]).comm.groups == 2
    for key, value in zip(changed[::2], changed[1::2], strict=True):
        with pytest.raises(InputError, match=f"{key[2:]} is {value}"):
            config.load(["--resume", str(tmp_path / "topk"), key, value])
    with pytest.raises(InputError, match=r"comm.compression is 'none'"):
        config.load(["--resume", str(tmp_path / "topk"), "--comm.compression", "none"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--comm.sync_every", "4", "--comm.compression", "fp16"), "leave comm.compression out"),
        (("--comm.sync_every", "4", "--train.sync_bn", "true"), "train.sync_bn does not"),
        (("--comm.op", "adasum", "--train.amp", "fp16"), "loss scale of its own"),
        (("--comm.op", "adasum", "--global_batch", "16"), "give batch_size"),
        (("--comm.powersgd_rank", "0"), "comm.powersgd_rank is 0"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        config.load(list(options))


def test_gradients_are_whole_until_the_warmup_ends():
    assert config.CommConfig().sharing_at(0) == "compressed"
    assert config.CommConfig(compression="fp16").sharing_at(0) == "compressed"
    lossy = config.CommConfig(compression="powersgd", warmup=2)
    assert [lossy.sharing_at(epoch) for epoch in (0, 1.9, 2)] == ["whole", "whole", "compressed"]
    local = config.CommConfig(sync_every=4, warmup=2)
    assert [local.sharing_at(epoch) for epoch in (1.9, 2)] == ["whole", "own"]
    assert config.CommConfig(op="adasum").sharing_at(0) == "own"


def test_what_ranks_connect_by_is_said_again():
    """Ranks but the first connect before they see the config of the run they resume."""
    saved = config.load(["--comm.compression", "bf16", "--train.sync_bn", "true"])
    with pytest.raises(InputError, match=r"--train.sync_bn True --comm.compression bf16: say it"):
        refuse_unsaid(config.parse_train(["--resume", "runs/exp"]), saved)
    refuse_unsaid(saved, saved)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The only run of its working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "exp"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.pt").touch()
    (folder / "config.yaml").write_text(config.to_yaml(config.load(["--imgsz", "96"])))
    return folder


def test_a_run_is_resumed_by_a_checkpoint_in_it(run, caplog):
    for name in ("", "checkpoints", "checkpoints/last.pt", "weights/last.pt", "last.pt"):
        loaded = config.load(["--resume", str(run / name)])
        assert (loaded.resume, loaded.output, loaded.imgsz) == (str(run), str(run), 96), name
        assert not caplog.text
    # It goes on from another one than that.
    for name in ("checkpoints/best.pt", "weights/best.pt", "checkpoints/epoch_003.pt"):
        assert config.load(["--resume", str(run / name)]).resume == str(run)
        assert "goes on from checkpoints/last.pt, its newest state" in caplog.text
        caplog.clear()
    assert config.load(["--resume", "runs/exp/weights/last.pt"]).resume == "runs/exp"


def test_what_is_no_run_is_answered_with_the_run_that_there_is(run, tmp_path):
    (tmp_path / "yolov8n.pt").touch()
    told = refusal("--resume", "yolov8n.pt")
    assert "the file is in no run" in told
    assert "--weights yolov8n.pt" in told
    for words in (["true"], ["True"], [], ["--imgsz", "96"]):
        assert "--resume runs/exp is the last one here" in refusal("--resume", *words)
    assert "as --resume runs/exp" not in told
    assert "no run there" in refusal("--resume", str(tmp_path / "elsewhere"))
    # A folder may have such a name.
    run.rename(tmp_path / "true")
    assert config.load(["--resume", "true"]).imgsz == 96
    assert "as --resume runs/exp" in refusal("--resume", "false")


@pytest.mark.parametrize("key", ["conf", "iou"])
@pytest.mark.parametrize("value", [-0.1, 25, math.nan])
def test_a_threshold_that_is_no_share_is_refused(key, value):
    with pytest.raises(InputError, match=f"{key} is {value}, it must be between 0 and 1"):
        config.check_values(dataclasses.replace(config.PredictConfig(), **{key: value}))
    limits = dataclasses.replace(config.Config().eval, **{key: value})
    with pytest.raises(InputError, match=f"eval.{key} is {value}, it must be between 0 and 1"):
        config.check_values(dataclasses.replace(config.Config(), eval=limits))
