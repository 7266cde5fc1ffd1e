import json
import re
import shutil
import sys

import cv2
import numpy as np
import pytest

from hvd_yolo import feed
from hvd_yolo.comm.single import SingleComm
from hvd_yolo.config import from_yaml
from hvd_yolo.data import open_dataset
from hvd_yolo.errors import InputError
from hvd_yolo.pace import make_pace
from hvd_yolo.report.__main__ import main
from hvd_yolo.report.page import write_report
from hvd_yolo.report.plots.pictures import first_inputs

pytest.importorskip("matplotlib")

PLOTS = {
    "loss", "loss_terms", "ap", "lr", "speed", "waits", "waits_by_rank", "pr_curve", "f1_curve",
    "precision_curve", "recall_curve", "confusion", "confusion_normalised", "labels_classes",
    "labels_per_image", "labels_sizes", "labels_positions", "training_update_1",
    "training_update_2", "val_predictions", "worst_images",
}  # fmt: skip


def outside(page):
    """What the page would fetch, or lead to."""
    named = re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']?([^"'\s>]+)""", page)
    named += re.findall(r"url\(([^)]*)\)", page)
    return [name for name in named if not name.startswith(("data:", "#"))]


def test_a_report_is_one_page_and_a_picture_of_each_kind(runs):
    run = runs[0]
    page = write_report([run], run / "report.html").read_text()
    assert not outside(page)
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    plots = {file.stem: file for file in (run / "plots").iterdir()}
    assert plots.keys() >= PLOTS
    for name, file in plots.items():
        image = cv2.imread(str(file))
        assert file.suffix == ".png"
        assert image is not None, name
        assert min(image.shape[:2]) > 100, name
        assert image.std() > 3, f"{name} is blank"
    assert page.count("data:image/") == len(re.findall(r'<img alt="[^"]{8,}"', page))
    best = max(
        json.loads(line)["AP"]
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if '"eval"' in line
    )
    assert f"Best AP {best:.4f}" in page
    assert "python -m hvd_yolo.train" in page


def test_two_runs_are_compared(runs, capsys):
    main([str(run) for run in runs])
    file = runs[0].parent / "comparison.html"
    assert capsys.readouterr().out == f"{file}\n"
    page = file.read_text()
    assert not outside(page)
    assert "<td>optim.lr</td>" in page
    assert "<td>output</td>" not in page
    for cell in ("0.001", "0.004"):
        assert re.search(rf"<td[^>]*>{cell}</td>", page)
    assert all(f"<td>{run.name}</td>" in page for run in runs)
    # Nothing is written into folders that are only looked at.
    assert not any((run / "plots").exists() for run in runs)


def test_pictures_are_the_inputs_that_the_run_read(runs):
    """On two ranks, three passes an update; shown is the beginning of each update."""
    config = from_yaml((runs[0] / "config.yaml").read_text())
    config.batch_size, config.train.accumulate = 3, 2
    train_set = open_dataset(config.data, "train")
    pace = make_pace(config, len(train_set), 2)
    shown = first_inputs(config, 2, train_set)
    for update in range(2):
        slot = np.zeros(shown.slot_bytes, dtype=np.uint8)
        filled = shown.fill(update * shown.dealing.passes, slot)
        examples = filled.examples(slot)
        place = 0
        for rank in range(2):
            comm = SingleComm()
            comm.rank, comm.size = rank, 2
            read = feed.training_inputs(config, comm, train_set, pace, 32, (0, 0))
            for number in range(pace.dealing.passes):
                own = np.zeros(read.slot_bytes, dtype=np.uint8)
                part = read.fill(update * pace.dealing.passes + number, own)
                for example in part.examples(own):
                    if place < len(examples):
                        assert all(map(np.array_equal, example, examples[place]))
                    place += 1
        assert place >= len(examples) > 0


def test_a_run_that_has_just_begun_has_a_report(runs):
    run = runs[0]
    (run / "evaluation.npz").unlink()
    (run / "ranks.jsonl").unlink()
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    first |= {"loss": "nan", "grad_norm": "inf"}
    # The line after it is under way.
    (run / "metrics.jsonl").write_text(json.dumps(first) + '\n{"kind": "tr')
    page = write_report([run], run / "report.html").read_text()
    assert "No evaluation has been made yet." in page
    assert "evaluation.npz is not there" in page
    assert {file.stem for file in (run / "plots").iterdir()} >= {"lr", "training_update_1"}
    for name in ("metrics.jsonl", "environment.json"):
        (run / name).unlink()
    write_report([run], run / "report.html")
    write_report(runs, run.parent / "comparison.html")


def test_without_its_data_set_a_report_has_no_pictures_and_says_so(runs):
    run = runs[0]
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("data: shapes:16", "data: /gone/data.yaml"))
    page = write_report([run], run / "report.html").read_text()
    assert "Training pictures are left out: data /gone/data.yaml: no such file" in page
    assert "Validation pictures are left out" in page
    assert (run / "plots" / "confusion.png").is_file()
    assert not (run / "plots" / "worst_images.png").exists()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/none is no run"):
        main([str(tmp_path / "none")])
    with pytest.raises(InputError, match="runs is missing"):
        main([])


def test_damaged_files_are_named(runs):
    run = runs[0]
    (run / "evaluation.npz").write_bytes(b"PK" + bytes(100))
    with pytest.raises(InputError, match=r"evaluation.npz cannot be read"):
        write_report([run], run / "report.html")
    (run / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(InputError, match=r"metrics.jsonl:1: not a line of JSON"):
        write_report([run], run / "report.html")


def test_a_report_without_matplotlib_names_the_extra(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'hvd_yolo\[plots\]'"):
        write_report(runs[:1], runs[0] / "report.html")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_whole_and_asks_nobody(runs, width):
    playwright = pytest.importorskip("playwright.sync_api")
    files = [write_report(runs[:1], runs[0] / "report.html"), runs[0].parent / "comparison.html"]
    write_report(runs, files[1])
    with playwright.sync_playwright() as engines:
        browser = engines.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for file in files:
            page = browser.new_page(viewport={"width": width, "height": 900})
            said, asked = [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
            assert said == []
        browser.close()
