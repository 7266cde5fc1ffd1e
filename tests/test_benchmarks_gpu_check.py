"""What benchmarks/gpu_check.py promises beside its measurements: parts that end in time, a report
that names its commit, and no figure of a pretend device among real ones."""

import argparse
import json
import shutil
import sys
import time

import psutil
import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check_parts import Context, Outcome, PartError, run
from benchmarks.gpu_check_rank import waits_of
from benchmarks.gpu_check_report import BEGIN, END, write_report
from benchmarks.results import REPOSITORY, commit

SIZES = {"imgsz": 64, "batch": 2, "steps": 2, "warmup": 1}
FOUND = {
    "rates": Outcome("bad", "out of time", [
        {"model": "yolov8n", "variant": "bf16", "images_per_s": 1234.5, "memory": 2 * 10**9},
        {"model": "yolov8x", "variant": "bf16", "why": "out of time"},
    ]),
    "syncs": Outcome("good", "2", [
        {
            "model": "yolov8n", "syncs": 2.0, "by_name": {"cudaEventSynchronize": 2.0},
            "launches": 1000.5,
        },
    ]),
}  # fmt: skip
SECONDS = {"rates": 200.0, "syncs": 3.0}


def test_a_part_that_takes_too_long_is_ended_with_its_children(tmp_path):
    program = (
        "import subprocess, sys, time; child = subprocess.Popen(['sleep', '600']); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    began = time.monotonic()
    with pytest.raises(PartError, match="out of time"):
        run([sys.executable, "-c", program], log, 3)
    assert time.monotonic() - began < 30
    child = int(log.read_text().split()[0])
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_part_that_fails_tells_the_end_of_its_output(tmp_path):
    with pytest.raises(PartError, match="exit code 3: no such device"):
        run([sys.executable, "-c", "print('no such device'); exit(3)"], tmp_path / "log", 60)


def test_a_report_replaces_its_own_part_of_the_document_alone(tmp_path):
    shutil.copy(REPOSITORY / "benchmarks" / "gpu.md", tmp_path)
    before = (tmp_path / "gpu.md").read_text().partition(BEGIN)[0].rstrip()
    for _ in range(2):
        file = write_report(tmp_path, FOUND, SECONDS, SIZES, "NVIDIA X", is_pretend=False)
        text = file.read_text()
        assert text.startswith(before)
        assert (text.count(BEGIN), text.count(END)) == (1, 1)
    assert f"at commit `{commit(REPOSITORY)}`" in text
    assert "| yolov8n | 1234.5 (2.0) |" in text
    assert "| yolov8x | - |" in text
    assert "| yolov8n | 2 | 2 cudaEventSynchronize | 1000 |" in text
    assert json.loads((tmp_path / "gpu_check.json").read_text())["is_pretend"] is False


def test_a_pretend_report_leaves_the_real_one_and_says_what_it_is(tmp_path):
    shutil.copy(REPOSITORY / "benchmarks" / "gpu.md", tmp_path)
    before = (tmp_path / "gpu.md").read_text()
    file = write_report(tmp_path, FOUND, SECONDS, SIZES, "Pretend GPU", is_pretend=True)
    assert (tmp_path / "gpu.md").read_text() == before
    assert "PRETEND DEVICE" in file.read_text()
    assert file.name == "gpu_check.pretend.md"
    assert json.loads((tmp_path / "gpu_check.pretend.json").read_text())["is_pretend"] is True


def test_waits_among_the_events_of_the_profiler():
    names = [
        "aten::conv2d", "cudaLaunchKernel", "cudaStreamWaitEvent", "cudaEventRecord",
        "cudaMemcpyAsync", "cudaEventSynchronize", "cudaEventSynchronize", "cudaStreamSynchronize",
        "cudaDeviceSynchronize", "cudaMemcpy", "Memcpy HtoD (Pinned -> Device)",
    ]  # fmt: skip
    expected = {
        "cudaEventSynchronize": 2, "cudaStreamSynchronize": 1, "cudaDeviceSynchronize": 1,
        "cudaMemcpy": 1,
    }  # fmt: skip
    assert waits_of(names) == expected
    # The copy is the one that the stream was waited for.
    blocking = "Memcpy DtoH (Device -> Pageable)"
    assert waits_of([*names, blocking]) == expected
    assert waits_of([*names, blocking, blocking]).total() == 6


def test_a_part_that_raises_leaves_the_others(tmp_path, monkeypatch):
    def raise_error(context, seconds):
        return json.loads((context.folder / "not_there.json").read_text())

    parts = {
        "first": gpu_check.Part(raise_error, 5),
        "second": gpu_check.Part(lambda context, seconds: Outcome("good", f"{seconds:.0f}"), 5),
    }
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    asked = argparse.Namespace(parts="first,second", budget=60, pretend=True, smoke=True)
    context = Context(is_pretend=True, folder=tmp_path, sizes=SIZES)
    outcomes = gpu_check.run_parts(asked, context, "none")
    assert outcomes["first"].status == "failed"
    assert "FileNotFoundError" in outcomes["first"].detail
    assert outcomes["second"] == Outcome("good", "25")
