"""Loggers beside metrics.jsonl: what they hold, over kills, and that none can stall or fail a
run."""

import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from hvd_yolo import checkpoint
from hvd_yolo.config import Config, ReportConfig, flatten, load
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate import Evaluation
from hvd_yolo.report import Report
from hvd_yolo.report.loggers import MOST_WAITING, Logger
from hvd_yolo.report.loggers.lines import Entry, Run, curves
from hvd_yolo.report.loggers.openmetrics import OpenMetrics
from hvd_yolo.report.loggers.ranks import RanksFile, seconds_between
from hvd_yolo.tally import Window
from tests.conftest import REPOSITORY, run_job
from tests.report import stores

SMALL = (
    "--data", "shapes:16", "--imgsz", "64", "--epochs", "2", "--batch_size", "4",
    "--report.every", "1", "--workers", "0",
)  # fmt: skip


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def lives(step=0):
    rank = {"updates": step, "data_wait": 0.5, "comm_wait": 0.25, "memory": 1 << 30}
    rank |= {"gpu_memory": 0, "phase": "an update", "is_waiting": False, "age": 0.0, "silence": 0.0}
    return [{"rank": number, "host": f"host{number}", **rank} for number in range(2)]


def open_report(folder, metrics_bytes=0, **options):
    report = ReportConfig(plots=False, **options)
    config = flatten(Config(report=report))
    return Report(folder, True, True, metrics_bytes, 20, "", report, config)


def tell(report, first, last):
    """The lines of some updates: a function of the update, but for times; an evaluation every
    fourth."""
    for step in range(first, last + 1):
        grad_norm = math.inf if step == 3 else 1 / step
        window = Window({"box": 1 / step, "cls": 0.1 * step}, 8, 4e6, 0.0, 0.0, 1)
        report.train(step / 4, step, 0.01 / step, grad_norm, window)
        if step % 4 == 0:
            found = {
                "AP": step / 30, "AP50": step / 20, "AP75": 0.0,
                "precision": 0.5, "recall": 0.25, "threshold": 0.1,
                "val_loss": math.nan if step == 4 else 3.3,
                "val_losses": {"box": 3 / step}, "images": 7,
                "per_class": {"RBC": {"AP": step / 40, "AR": None}},
            }  # fmt: skip
            report.evaluation(step / 4, step, Evaluation(found, np.zeros(0), 0.0))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def same(found, expected):
    """To the last bit, NaN included."""
    assert found.keys() == expected.keys()
    for key, numbers in expected.items():
        assert found[key].keys() == numbers.keys()
        for name, value in numbers.items():
            both = (found[key][name], value)
            assert both[0] == both[1] or all(map(math.isnan, both)), (key, name, both)


def without_time(numbers):
    return {key: {k: v for k, v in row.items() if k != "time"} for key, row in numbers.items()}


def start_and_kill(folder, options, last):
    """A process that tells of updates 1 to `last`, whose loggers have had all when it is killed;
    returns how much of metrics.jsonl it had after update 6."""
    program = f"""
import os, pathlib, signal, sys, time
from tests.report.test_loggers import *
folder = pathlib.Path({str(folder)!r})
report = open_report(folder, **{options!r})
report.watch(lives)
tell(report, 1, 6)
print("bytes:", report.metrics_bytes)
tell(report, 7, {last})
end = report.metrics_bytes
has = {{"mlflow": ("had", end), "wandb": ("rows", {last} + {last} // 4)}}
for name in set(has) & set({list(options)}):
    mark = folder / f"{{name}}.json"
    key, value = has[name]
    wait_for(lambda: mark.is_file() and json.loads(mark.read_text()).get(key) == value)
table = folder / "metrics.csv"
wait_for(lambda: len(table.read_text().splitlines()) == 1 + {last} + {last} // 4)
time.sleep(0.5)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    quick = {"WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.1"}
    environment = {**os.environ, "WANDB_MODE": "offline", **quick}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, check=False,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    told = next(line for line in done.stdout.splitlines() if line.startswith("bytes:"))
    return int(told.split()[1])


def test_files_of_a_killed_and_resumed_run_are_those_of_one_run(tmp_path):
    run, base = tmp_path / "run", tmp_path / "runs.db"
    run.mkdir()
    options = {"sqlite": str(base), "openmetrics": str(tmp_path / "run.prom")}
    kept = start_and_kill(run, options, last=9)
    with open_report(run, kept, **options) as report:
        report.watch(lives)
        tell(report, 7, 13)
        report.event(13, "regrouped", "3 ranks -> 2")
    expected = stores.truth(run)
    assert len(expected) == 13 + 3
    same(stores.of_csv(run), expected)
    same(stores.of_sqlite(base, run), stores.truth(run, with_classes=True))
    ranks = [json.loads(line) for line in (run / "ranks.jsonl").read_text().splitlines()]
    # Who writes a line beside the main thread may have been killed before.
    assert [line["step"] for line in ranks] == list(range(1, 14))
    assert json.loads((run / "ranks.json").read_text())["state"] == "finished"
    gauges = stores.of_openmetrics(tmp_path / "run.prom")
    label = f'run="{run}"'
    assert gauges["hvd_yolo_update"] == {label: 13}
    assert gauges["hvd_yolo_running"] == {label: 0}
    assert gauges["hvd_yolo_loss"][f'{label},term="box"'] == 1 / 13
    assert gauges["hvd_yolo_eval"][f'{label},metric="AP"'] == 12 / 30
    assert gauges["hvd_yolo_rank_memory_bytes"][f'{label},rank="1",host="host1"'] == 1 << 30
    age = time.time() - gauges["hvd_yolo_last_line_timestamp_seconds"][label]
    assert 0 <= age < 60


@needs("tensorboard")
def test_tensorboard_of_a_killed_and_resumed_run_is_that_of_one_run(tmp_path):
    kept = start_and_kill(tmp_path, {"tensorboard": True}, last=9)
    with open_report(tmp_path, kept, tensorboard=True) as report:
        tell(report, 7, 13)
    expected = without_time(stores.truth(tmp_path))
    rounded = {
        key: {k: float(np.float32(v)) for k, v in row.items()} for key, row in expected.items()
    }
    same(stores.of_tensorboard(tmp_path / "tensorboard"), rounded)


@needs("mlflow")
@pytest.mark.parametrize(
    "scheme", ["", pytest.param("sqlite:///", marks=[pytest.mark.long, needs("sqlalchemy")])]
)
def test_mlflow_of_a_killed_and_resumed_run_is_one_run(tmp_path, monkeypatch, scheme):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    options = {"mlflow": f"{scheme}{tmp_path}/store" + (".db" if scheme else "")}
    run = tmp_path / "run"
    run.mkdir()
    kept = start_and_kill(run, options, last=9)
    (run / "plots").mkdir()
    (run / "plots" / "loss.png").write_bytes(b"a picture")
    with open_report(run, kept, **options) as report:
        tell(report, 7, 13)
    found, logged = stores.of_mlflow(options["mlflow"])
    same(found, without_time(stores.truth(run)))
    assert logged.info.status == "FINISHED"
    assert logged.data.params["optim.lr"] == "0.001"
    assert logged.data.params["report.mlflow"] == options["mlflow"]
    (artifacts,) = tmp_path.glob(f"*/**/{logged.info.run_id}/artifacts")
    assert (artifacts / "plots" / "loss.png").read_bytes() == b"a picture"
    assert (artifacts / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


@needs("wandb")
def test_wandb_of_a_killed_and_resumed_run_is_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    kept = start_and_kill(tmp_path, {"wandb": "detectors"}, last=9)
    with open_report(tmp_path, kept, wandb="detectors") as report:
        tell(report, 7, 13)
    found, ids = stores.of_wandb(tmp_path)
    same(found, without_time(stores.truth(tmp_path)))
    assert len(ids) == 1
    (sent,) = tmp_path.glob("wandb/offline-run-*/files/hvd_yolo/metrics.jsonl")
    assert sent.read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()


def test_several_runs_write_to_one_database_at_once(tmp_path):
    base = str(tmp_path / "runs.db")
    program = (
        "import sys, pathlib; from tests.report.test_loggers import *\n"
        "folder = pathlib.Path(sys.argv[1]); folder.mkdir()\n"
        "with open_report(folder, sqlite=sys.argv[2]) as report:\n"
        "    for step in range(1, 201): tell(report, step, step); time.sleep(0.002)\n"
    )
    folders = [tmp_path / f"run{number}" for number in range(3)]
    command = [sys.executable, "-c", program]
    runs = [subprocess.Popen([*command, str(folder), base], cwd=REPOSITORY,
                             stdout=subprocess.PIPE, text=True) for folder in folders]  # fmt: skip
    for run in runs:
        assert "dropped" not in run.communicate(timeout=120)[0]
        assert run.returncode == 0
    for folder in folders:
        same(stores.of_sqlite(base, folder), stores.truth(folder, with_classes=True))


class Deaf:
    """A server that takes connections and never answers."""

    def __enter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._kept = []
        threading.Thread(target=self._listen, daemon=True).start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _listen(self):
        while True:
            self._kept.append(self._socket.accept())

    def __exit__(self, *_):
        pass


class Hanging:
    """A store that does not answer."""

    def __init__(self):
        self.is_over = threading.Event()

    def open(self):
        self.is_over.wait()

    def write(self, entries):
        raise AssertionError

    close = write


def test_a_logger_that_hangs_is_dropped_with_one_message():
    said, store = [], Hanging()
    logger = Logger("report.new", store, frozenset({"train"}), said.append)
    slowest = 0.0
    for _ in range(MOST_WAITING + 10):
        began = time.perf_counter()
        logger.put(Entry({"kind": "train"}, 0))
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.1
    began = time.monotonic()
    logger.end("finished")
    store.is_over.set()
    logger.wait(began, "finished")
    assert said == [
        "report.new is dropped, the run goes on without it: it does not answer, "
        f"{MOST_WAITING} lines wait for it"
    ]


def weights(folder):
    return checkpoint.load(folder / "checkpoints" / "last.pt")["weights"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    options = ["--output", str(folder), *SMALL, "--report.csv", "false"]
    done = run_job(1, ["-m", "hvd_yolo.train", *options])
    assert done.returncode == 0, done.stderr
    return folder


def test_loggers_that_fail_change_nothing_but_a_message_each(tmp_path, plain):
    run = tmp_path / "run"
    # A folder where the file belongs, what is no database, a folder that is not there.
    (run / "metrics.csv").mkdir(parents=True)
    (tmp_path / "runs.db").write_text("no database, and long enough to be seen as such\n" * 40)
    options = ["--output", str(run), *SMALL, "--report.sqlite", str(tmp_path / "runs.db"),
               "--report.openmetrics", str(tmp_path / "nowhere" / "a.prom")]  # fmt: skip
    done = run_job(1, ["-m", "hvd_yolo.train", *options])
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "is dropped" in line]
    assert sorted(line.split(":")[0] for line in told) == [
        f"report.{name} is dropped, the run goes on without it"
        for name in ("csv", "openmetrics", "sqlite")
    ]
    assert any("DatabaseError: file is not a database" in line for line in told)
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())
    assert len(stores.truth(run)) == len(stores.truth(plain))


@needs("mlflow")
@pytest.mark.long
def test_a_server_that_never_answers_stalls_no_run(tmp_path, plain):
    with Deaf() as uri:
        options = ["--output", str(tmp_path / "run"), *SMALL, "--report.mlflow", uri]
        began = time.monotonic()
        done = run_job(1, ["-m", "hvd_yolo.train", *options])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is dropped") == 1
    assert "report.mlflow is dropped, the run goes on without it: it does not end" in done.stdout
    # A minute to open, and the run.
    assert time.monotonic() - began < 120
    expected = weights(plain)
    found = weights(tmp_path / "run")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@needs("tensorboard")
def test_a_full_disk_drops_who_writes_there(small_disk, caplog, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    (run / "tensorboard").symlink_to(small_disk, target_is_directory=True)
    options = {"sqlite": str(small_disk / "runs.db"), "tensorboard": True}
    with open_report(run, **options) as report:
        for step in range(1, 601):
            tell(report, step, step)
            time.sleep(0.002)
    told = [line for line in caplog.messages if "is dropped" in line]
    assert len(told) == 2
    assert any("report.sqlite" in line and "disk is full" in line for line in told)
    assert any("report.tensorboard" in line and "No space left" in line for line in told)
    assert len(stores.of_csv(run)) == 600 + 150


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_told_before_the_run(name, monkeypatch):
    is_there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda package: None if package == name else is_there(package)
    )
    value = {"tensorboard": "true"}.get(name, "x")
    with pytest.raises(InputError, match=rf"pip install 'hvd_yolo\[{name}\]'"):
        load([f"--report.{name}", value])


def test_a_line_costs_the_run_next_to_nothing(tmp_path):
    with open_report(tmp_path, sqlite=str(tmp_path / "runs.db")) as report:
        report.watch(lives)
        tell(report, 1, 20)
        began = time.thread_time()
        tell(report, 21, 220)
        cost = (time.thread_time() - began) / 250
    # An update takes some tens of milliseconds at the least, and a line stands for ten.
    assert cost < 0.002


def test_openmetrics_labels_and_numbers_are_spelt_as_scrapers_read_them(tmp_path):
    folder = tmp_path / 'a "run"\\of\nmine'
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        '{"kind": "train", "step": 1, "epoch": 0.5, "lr": 1e-05, "loss": "nan", "grad_norm": "inf",'
        ' "losses": {"box": "nan"}, "images_per_s": 1, "data_wait": 0, "comm_wait": 0, "time": 1}\n'
    )
    size = (folder / "metrics.jsonl").stat().st_size
    store = OpenMetrics(tmp_path / "a.prom", Run(folder, {}, 10, size))
    store.open()
    gauges = stores.of_openmetrics(tmp_path / "a.prom")
    label = str(folder).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert gauges["hvd_yolo_learning_rate"] == {f'run="{label}"': 1e-05}
    assert math.isnan(gauges["hvd_yolo_total_loss"][f'run="{label}"'])
    assert gauges["hvd_yolo_gradient_norm"] == {f'run="{label}"': math.inf}
    assert not list(tmp_path.glob(".*"))


def test_curves_leave_out_classes_and_what_is_not_known():
    line = {"kind": "eval", "step": 3, "AP": 0.5, "AR": None, "per_class": {"a": {"AP": 1.0}}}
    assert curves({**line, "val_losses": {"box": "nan"}, "time": 1.0}).keys() == {
        "eval/AP", "eval/val_losses.box",
    }  # fmt: skip


def test_lines_of_many_ranks_are_thinned_out_and_the_last_is_kept(tmp_path):
    rows = [{"rank": rank, "host": "a", "updates": 0} for rank in range(64)]
    (tmp_path / "metrics.jsonl").touch()
    file = RanksFile(Run(tmp_path, {}, 100, 0))
    file.open()
    for step in range(101):
        line = {"kind": "ranks", "step": step, "seconds": 1.0 * step, "ranks": rows}
        file.write([Entry(line, 0)])
    file.close("finished")
    lines = [json.loads(line) for line in (tmp_path / "ranks.jsonl").read_text().splitlines()]
    # 1,200 entries a minute beyond those of 8 ranks, and the last line.
    assert [line["step"] for line in lines] == [*range(0, 100, 3), 100]
    assert all(len(line["ranks"]) == 64 for line in lines)
    # Few ranks, and after a month.
    assert seconds_between(8, 500) == 0
    assert seconds_between(8, 2_592_000) > 500
