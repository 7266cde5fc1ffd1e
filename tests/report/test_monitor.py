"""The live table of a run's ranks."""

import json
import os
import pty
import re
import subprocess
import sys
import time

from hvd_yolo.monitor import Monitor
from tests.conftest import REPOSITORY, run_job
from tests.report.test_loggers import lives, open_report, tell, wait_for


def shown(run, *options):
    done = run_job(1, ["-m", "hvd_yolo.monitor", str(run), *options])
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(folder):
    monitor = Monitor(folder)
    monitor.look()
    return monitor, monitor.text(200, 50)


def put(folder, name, *values):
    (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values))


def counts(step, seconds, ranks):
    rows = [
        {"rank": i, "host": f"host{i}", "updates": step, "data_wait": data, "comm_wait": comm,
         "memory": 2e9, "gpu_memory": 5e9} for i, (data, comm) in enumerate(ranks)
    ]  # fmt: skip
    return {"step": step, "seconds": seconds, "ranks": rows}


def test_a_run_that_lives_and_one_that_has_ended(tmp_path):
    with open_report(tmp_path) as report:
        report.watch(lives)
        tell(report, 1, 9)
        wait_for((tmp_path / "ranks.json").is_file)
        wait_for((tmp_path / "ranks.jsonl").is_file)
        wait_for(lambda: (tmp_path / "ranks.jsonl").read_text().count("\n") == 9)
        _, text = table(tmp_path)
        assert text.startswith(f"{tmp_path}: alive\nepoch 2.25  update 9/20  loss 1.011  lr ")
        assert "AP 0.2667 at epoch 2.00, best 0.2667 at epoch 2.00" in text
        assert text.splitlines()[-1].split()[:2] == ["1", "host1"]
        assert "an update" in text.splitlines()[-1]
    text = shown(tmp_path)
    assert text.startswith(f"{tmp_path}: finished\n")
    assert "an update" not in text


def test_rates_and_waits_are_those_of_the_last_lines_of_this_start(tmp_path):
    put(tmp_path, "metrics.jsonl")
    before = counts(30, 900.0, [(500.0, 0.0), (0.0, 500.0)])
    lines = [counts(10 * i, 5.0 * i, [(1.0 * i, 0.0), (0.0, 2.0 * i)]) for i in range(1, 30)]
    put(tmp_path, "ranks.jsonl", before, *lines)
    _, text = table(tmp_path)
    rows = [line.split() for line in text.splitlines()[-2:]]
    assert rows[0][:6] == ["0", "host0", "2.00", "20%", "0%", "2.00"]
    assert rows[1][:5] == ["1", "host1", "2.00", "0%", "40%"]


def test_a_run_that_was_killed_gives_no_sign_of_life(tmp_path):
    put(tmp_path, "metrics.jsonl")
    told = {"time": time.time() - 40, "state": "running", "step": 3, "total_updates": 9,
            "images_per_s": 1.0, "seconds_per_update": 1.0, "ranks": lives(3)}  # fmt: skip
    put(tmp_path, "ranks.json", told)
    text = shown(tmp_path, "--once", "true")
    seconds = re.match(rf"{tmp_path}: no sign of life for (\d+) s\n", text)
    # Not more than there were, however long it took to start.
    assert 40 <= int(seconds[1]) <= time.time() - told["time"] + 1
    monitor = Monitor(tmp_path)
    monitor.look()
    assert monitor.is_silent
    # The clock of the run's host is behind, yet it writes.
    put(tmp_path, "ranks.json", {**told, "time": told["time"] + 2})
    monitor.look()
    assert not monitor.is_silent


def test_lines_that_a_restart_cut_off_are_forgotten(tmp_path):
    first = {"kind": "eval", "step": 5, "epoch": 1.0, "AP": 0.9, "time": time.time()}
    put(tmp_path, "metrics.jsonl", first, {**first, "step": 9, "epoch": 2.0})
    monitor, text = table(tmp_path)
    assert "AP 0.9000 at epoch 2.00" in text
    put(tmp_path, "metrics.jsonl", {**first, "AP": 0.5})
    monitor.look()
    assert "AP 0.5000 at epoch 1.00, best 0.5000 at epoch 1.00" in monitor.text(200, 50)


def test_the_best_is_by_what_the_run_chose(tmp_path):
    line = {"kind": "eval", "step": 5, "epoch": 1.0, "AP": 0.9, "val_loss": 3.0, "time": 1.0}
    later = {"AP": 0.5, "val_loss": "NaN", "epoch": 3.0}
    put(tmp_path, "metrics.jsonl", {**line, "epoch": 2.0, "val_loss": 2.0}, line, line | later)
    assert "\nAP 0.5000 at epoch 3.00, best 0.9000 at epoch 2.00\n" in table(tmp_path)[1]
    (tmp_path / "config.yaml").write_text("eval:\n  metric: val_loss\n")
    assert "\nval_loss nan at epoch 3.00, best 2.0000 at epoch 2.00\n" in table(tmp_path)[1]


def test_where_not_all_ranks_fit_those_that_stand_still_are_shown(tmp_path):
    put(tmp_path, "metrics.jsonl")
    ranks = [{**lives(3)[0], "rank": rank, "is_waiting": True, "age": 90.0} for rank in range(40)]
    ranks[17] |= {"is_waiting": False, "phase": "reading images"}
    ranks[31] |= {"silence": 95.0}
    told = {"time": time.time(), "state": "running", "step": 3, "total_updates": 9, "ranks": ranks}
    put(tmp_path, "ranks.json", told)
    monitor, _ = table(tmp_path)
    lines = monitor.text(79, 10).splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 79
    numbers = [int(line.split()[0]) for line in lines[4:-1]]
    assert {17, 31} <= set(numbers)
    assert lines[-1] == f"{40 - len(numbers)} more ranks, which got on more lately"


def test_on_a_terminal_it_goes_on_until_the_run_is_finished(tmp_path):
    put(tmp_path, "metrics.jsonl")
    told = {"time": time.time(), "state": "running", "step": 3, "total_updates": 9, "ranks": []}
    put(tmp_path, "ranks.json", told)
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "hvd_yolo.monitor", str(tmp_path), "--every", "0.1"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=its) as job:
        os.close(its)
        seen = b""
        while seen.count(b"\x1b[H\x1b[J") < 3:
            seen += os.read(ours, 4096)
        assert b": alive" in seen
        put(tmp_path, "ranks.json", {**told, "state": "finished"})
        assert job.wait(timeout=30) == 0


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for arguments in ([str(tmp_path)], []):
        done = run_job(1, ["-m", "hvd_yolo.monitor", *arguments])
        assert done.returncode == 2
        assert "run" in done.stderr
        assert "Traceback" not in done.stderr
