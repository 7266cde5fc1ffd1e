"""Trials run side by side inside one job; whatever is killed, the others go on and nothing is run
twice."""

import csv
import json
import signal
import subprocess
import time

import optuna
import psutil
import pytest
import yaml

from hvd_yolo.tune.search import NAME
from tests.conftest import REPOSITORY, command_for, job_environment, needs_mpi, train

SPACE = "optim.lr: {low: 1e-4, high: 1e-2, log: true}\naugment.mosaic: [0.0, 1.0]\n"
TRAINING = (
    "--imgsz", "64", "--batch_size", "4", "--workers", "0",
    "--device", "cpu",
)  # fmt: skip


def searching(
    folder, num_ranks, *options, epochs=2, space=SPACE, launcher="mpirun", data="shapes:16",
    training=(),
):  # fmt: skip
    file = folder.with_suffix(".yaml")
    file.write_text(space)
    arguments = [
        "-m", "hvd_yolo.tune", "--space", str(file), "--output", str(folder), *options, "--",
        *TRAINING, *training, "--data", data, "--epochs", str(epochs),
    ]  # fmt: skip
    return subprocess.Popen(
        command_for(num_ranks, arguments, launcher), cwd=REPOSITORY, env=job_environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end_of(job, code=0, timeout=600):
    out, err = job.communicate(timeout=timeout)
    assert job.returncode == code, out + err
    return out


def running(job, word="hvd_yolo.train"):
    """The processes of that verb below the job, with their words."""
    found = {}
    for process in psutil.Process(job.pid).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if words[1:3] == ["-m", word]:
            found[process] = words
    return found


def of_trial(job, number):
    """The processes that train that trial."""
    return [p for p, words in running(job).items() if words[-1].endswith(f"trial_{number:03}")]


def trials_of(folder):
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    storage = optuna.storages.JournalStorage(journal)
    return optuna.load_study(study_name=NAME, storage=storage).trials


def starts(folder, number):
    """How often the trial was started."""
    file = folder / f"trial_{number:03}" / "environment.json"
    return len(json.loads(file.read_text())) if file.is_file() else 0


def wait_until(condition, job, timeout=240):
    deadline = time.monotonic() + timeout
    while not condition():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def side_by_side(trials):
    """The most trials that ran at one moment."""
    moments = [(t.datetime_start, 1) for t in trials] + [(t.datetime_complete, -1) for t in trials]
    alive, most = 0, 0
    for _, change in sorted(moments):
        alive += change
        most = max(most, alive)
    return most


@needs_mpi
def test_a_killed_trial_ends_alone_and_the_best_is_a_config_of_training(tmp_path):
    folder = tmp_path / "study"
    job = searching(folder, 2, "--trials", "2")
    wait_until((folder / "trial_001" / "metrics.jsonl").is_file, job)
    of_trial(job, 1)[0].kill()
    out = end_of(job)
    assert "trial 1: failed" in out
    assert "rank 0: killed by SIGKILL" in out
    states = [trial.state.name for trial in trials_of(folder)]
    assert states == ["COMPLETE", "FAIL"]
    assert side_by_side(trials_of(folder)) == 2
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["optim"]["lr"] == trials_of(folder)[0].params["optim.lr"]
    assert best["epochs"] == 2
    assert not best["output"]
    train(2, tmp_path / "final", "--config", str(folder / "best.yaml"), "--max_updates", "1")
    lines = list(csv.DictReader((folder / "trials.csv").open()))
    assert [line["state"] for line in lines] == ["complete", "fail"]
    assert {file.name for file in (folder / "plots").iterdir()} == {
        "epochs.png", "history.png", "parameters.png",
    }  # fmt: skip


@needs_mpi
@pytest.mark.long
@pytest.mark.parametrize("launcher", ["mpirun", "gloo"])
def test_eight_ranks_are_four_trials_of_two_and_a_killed_rank_ends_its_own_alone(
    tmp_path, launcher
):
    folder = tmp_path / "study"
    options = ("--trials", "5", "--ranks_per_trial", "2", "--pruner", "none")
    job = searching(folder, 8, *options, launcher=launcher)
    wait_until((folder / "trial_002" / "metrics.jsonl").is_file, job)
    of_trial(job, 2)[1].kill()
    end_of(job)
    trials = trials_of(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 2
    assert side_by_side(trials) == 4
    assert side_by_side([t for t in trials if t.number < 4]) == 4
    assert "killed by SIGKILL" in trials[2].user_attrs["reason"]
    environment = json.loads((folder / "trial_000" / "environment.json").read_text())
    assert len(environment[0]["ranks"]) == 2


@needs_mpi
@pytest.mark.long
def test_a_killed_search_goes_on_and_repeats_nothing(tmp_path):
    folder = tmp_path / "study"
    options = ("--trials", "5", "--pruner", "none")
    job = searching(folder, 2, *options, epochs=3)
    wait_until((folder / "trial_003" / "metrics.jsonl").is_file, job)
    trainings, agents = running(job), running(job, "hvd_yolo.tune")
    for process in [psutil.Process(job.pid), *agents]:
        process.kill()
    job.communicate()
    _, alive = psutil.wait_procs([*trainings, *agents], timeout=15)
    assert not alive, "an orphan"
    before = trials_of(folder)
    over = [trial.number for trial in before if trial.state.is_finished()]
    assert 2 <= len(over) < len(before) <= 5
    going_on = len(before) - len(over)

    out = end_of(searching(folder, 2, *options, epochs=3))
    assert out.count("continues on rank") == going_on
    after = trials_of(folder)
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 5
    assert [trial.params for trial in after[: len(before)]] == [trial.params for trial in before]
    assert [after[number].datetime_complete for number in over] == [
        before[number].datetime_complete for number in over
    ]
    assert all(starts(folder, number) == 1 for number in over)
    assert len({tuple(trial.params.items()) for trial in after}) == 5
    # All are over: the same command has nothing to do.
    end_of(searching(folder, 2, *options, epochs=3))
    assert [trial.datetime_complete for trial in trials_of(folder)] == [
        trial.datetime_complete for trial in after
    ]


@needs_mpi
@pytest.mark.long
def test_a_search_that_is_asked_to_stop_saves_and_goes_on(tmp_path):
    folder = tmp_path / "study"
    options = ("--trials", "2", "--ranks_per_trial", "2", "--pruner", "none")
    job = searching(folder, 4, *options, epochs=6)
    file = folder / "trial_001" / "metrics.jsonl"
    wait_until(lambda: file.is_file() and "eval" in file.read_text(), job)
    # One rank is enough.
    list(running(job, "hvd_yolo.tune"))[-1].send_signal(signal.SIGUSR1)
    end_of(job, code=75)
    assert {trial.state.name for trial in trials_of(folder)} == {"RUNNING"}
    end_of(searching(folder, 4, *options, epochs=6))
    assert [trial.state.name for trial in trials_of(folder)] == ["COMPLETE"] * 2
    assert [starts(folder, number) for number in range(2)] == [2, 2]
    steps = [json.loads(line)["step"] for line in file.open() if '"eval"' in line]
    assert steps == [2, 4, 6, 8, 10, 12]


@needs_mpi
@pytest.mark.long
def test_what_no_trial_can_do_ends_the_search_with_its_message(tmp_path):
    job = searching(tmp_path / "study", 2, "--trials", "9", data="nowhere.yaml")
    _, err = job.communicate(timeout=300)
    assert job.returncode == 2, err
    assert "3 trials failed, none was ever evaluated; the last: trial" in err
    assert "nowhere.yaml" in err
    job = searching(tmp_path / "other", 2, "--metric", "AP95")
    _, err = job.communicate(timeout=300)
    assert job.returncode == 2, err
    assert "--metric AP95: an evaluation of trial" in err
    assert "it has AP, AP50" in err


def updates_of(folder, number):
    """What was trained of a trial."""
    lines = [json.loads(x) for x in (folder / f"trial_{number:03}" / "metrics.jsonl").open()]
    return max(line["step"] for line in lines if line["kind"] != "event")


@needs_mpi
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_asha_finds_the_best_of_a_grid_with_less_than_half_of_its_updates(tmp_path):
    """27 points of a fine-tuning, once all of them to the end and once with ASHA. Each parameter
    counts for more than the noise of 64 images to evaluate. With this seed the best point is the
    25th: the first trials ASHA lets pass in any case. It is not the best yet after one epoch, but
    after three."""
    base = tmp_path / "base"
    options = ("--optim.ema_decay", "0", "--augment.close_mosaic", "0", "--batch_size", "16")
    first = ("--data", "shapes:256", "--epochs", "8")
    train(1, base, *TRAINING, *options, *first, "--optim.lr", "0.002", "--augment.mosaic", "0")
    options += ("--weights", str(base / "checkpoints" / "last.pt"), "--train.freeze_bn", "true")
    options += ("--optim.name", "sgd", "--optim.schedule", "constant", "--optim.warmup_epochs", "0")
    space = (
        "optim.lr: [0.00003, 0.0003, 0.003]\naugment.degrees: [0.0, 30.0, 90.0]\n"
        "augment.mosaic: [0.0, 0.5, 1.0]\n"
    )
    found, updates, best = {}, {}, {}
    for pruner in ("none", "asha"):
        folder = tmp_path / pruner
        own = ("--trials", "27", "--sampler", "grid", "--metric", "val_loss", "--pruner", pruner)
        own += ("--min_epochs", "3", "--reduction", "9", "--seed", "19")
        job = searching(folder, 2, *own, epochs=9, space=space, data="shapes:256", training=options)
        end_of(job, timeout=3000)
        found[pruner] = trials = trials_of(folder)
        updates[pruner] = sum(updates_of(folder, trial.number) for trial in trials)
        done = [trial for trial in trials if trial.state.name == "COMPLETE"]
        best[pruner] = min(done, key=lambda trial: trial.value)
    print(updates, {pruner: (trial.params, trial.value) for pruner, trial in best.items()})
    assert len({trial.value for trial in found["none"]}) == 27, "a parameter without effect"
    assert best["asha"].params == best["none"].params
    assert updates["asha"] <= 0.45 * updates["none"]
