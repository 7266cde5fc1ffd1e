import json

import pytest

from hvd_yolo.config import ReportConfig
from hvd_yolo.report import Report, slow_data_remedy
from hvd_yolo.tally import Window


@pytest.fixture
def report(tmp_path, capsys):
    remedy = slow_data_remedy("none", 2)
    with Report(tmp_path, True, False, 0, 100, remedy, ReportConfig(plots=False), {}) as opened:
        yield opened


def line(report, step, share, comm_share=0.0):
    """A train line over a window in which these shares of the time were waited for images and for
    other ranks."""
    report._line_started -= 10.0
    waits = (10.0 * share, 10.0 * comm_share)
    report.train(0.5, step, 0.01, 1.0, Window({"box": 1.0}, 16, 4e6, *waits, 10))


def test_waiting_for_images_is_told_once_and_not_of_the_start(report, capsys, tmp_path):
    for step, share in ((10, 0.6), (20, 0.03), (30, 0.2), (40, 0.4)):
        line(report, step, share)
    told = [text for text in capsys.readouterr().out.splitlines() if text.startswith("waited")]
    assert len(told) == 1
    assert "waited 20% of the time for images: --loader.cache ram" in told[0]
    assert "--workers 3 or more (now 2 a rank)" in told[0]
    # metrics.jsonl is the same in each run, but for its fields of time.
    assert (tmp_path / "metrics.jsonl").read_text().count('"kind": "train"') == 4
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_waiting_for_other_ranks_is_told_once(report, capsys, tmp_path):
    for step, share in ((10, 0.6), (20, 0.2), (30, 0.4), (40, 0.5)):
        line(report, step, 0.0, share)
    printed = capsys.readouterr().out
    told = [text for text in printed.splitlines() if text.startswith("waited")]
    assert len(told) == 1
    assert "waited 40% of the time for other ranks: `python -m hvd_yolo.doctor`" in told[0]
    assert printed.count("comm wait") == 4
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sent_bytes"] == 4e6
    assert last["comm_wait"] == pytest.approx(0.5, abs=0.01)


def test_a_run_that_waits_little_is_left_in_peace(report, capsys):
    for step in (10, 20, 30):
        line(report, step, 0.04, 0.2)
    assert "waited" not in capsys.readouterr().out


def test_a_cache_that_is_there_is_not_recommended():
    assert "cache" in slow_data_remedy("none", 0)
    assert "cache" not in slow_data_remedy("ram", 0)
    assert "--workers 1 or more (now 0 a rank)" in slow_data_remedy("ram", 0)


def test_the_first_line_after_a_restart_counts_its_own_updates_alone(report, tmp_path):
    """The window, of ten updates, had nine before the restart."""
    report.resumed_at(19)
    line(report, 20, 0.0)
    line(report, 30, 0.0)
    texts = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(text)["images_per_s"] for text in texts]
    assert rates == pytest.approx([0.16, 1.6], rel=0.05)
