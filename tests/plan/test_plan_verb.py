"""`python -m hvd_yolo.plan` from end to end: a real run, a link's file, a table and a plot."""

import json

import cv2
import pytest

from hvd_yolo.config import parse
from hvd_yolo.config.plan_verb import PlanConfig
from hvd_yolo.errors import InputError
from hvd_yolo.plan.__main__ import main
from hvd_yolo.plan.inputs import find_step, job_sizes
from hvd_yolo.plan.links import NAMED, open_link
from tests.conftest import run_job, train

GIVEN = ("--seconds", "0.5", "--batch_size", "16", "--parameters", "3000000")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six updates of 4 images in two passes, on one rank."""
    folder = tmp_path_factory.mktemp("run") / "alone"
    options = ("--data", "shapes:24", "--imgsz", "32", "--batch_size", "2", "--epochs", "1",
               "--train.accumulate", "2", "--report.every", "1", "--eval.every", "0",
               "--comm.groups", "3", "--device", "cpu")  # fmt: skip
    train(1, folder, *options)
    return folder


def step_of(*options):
    return find_step(parse(PlanConfig, [str(o) for o in options], "hvd_yolo.plan"))


def refusal(*options):
    with pytest.raises(InputError) as caught:
        main([str(option) for option in options])
    return str(caught.value)


def link_file(folder, **found):
    file = folder / "doctor.json"
    file.write_text(json.dumps({"link": found}))
    return file


def test_a_run_a_link_and_a_plan(run, tmp_path):
    link = link_file(tmp_path, size=2, bandwidth=1e7, latency=2e-3)
    out, plot = tmp_path / "plan.json", tmp_path / "plan.png"
    done = run_job(1, ["-m", "hvd_yolo.plan", "--run", str(run), "--link", str(link),
                       "--json", str(out)])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "10 MB/s usable each way, 50 us a hop, 1.9 ms to start" in done.stdout
    rows = json.loads(out.read_text())["predictions"]
    assert {row["size"] for row in rows} == {2**i for i in range(11)}
    assert {row["compression"] for row in rows} == {"none", "fp16", "bf16", "powersgd", "topk"}
    alone = [row for row in rows if row["size"] == 1]
    assert all(row["efficiency"] == 1 and row["sent"] == 0 for row in alone)
    chosen = {row["size"]: row["compression"] for row in rows if row["is_best"]}
    assert len(chosen) == 11
    # 12.6 MB at 10 MB/s beside so short an update: nobody sends that dense.
    assert chosen[2] == "powersgd"
    pytest.importorskip("matplotlib")
    main(["--run", str(run), "--link", str(link), "--plot", str(plot), "--ranks", "1,4,16"])
    assert cv2.imread(str(plot)).shape[2] == 3


def test_a_run_tells_its_images_passes_and_groups(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = step_of("--run", run)
    seconds = sorted(line["images"] / line["images_per_s"] for line in lines[1:])
    assert found.seconds == pytest.approx(seconds[len(seconds) // 2])
    assert (found.images, found.passes, found.groups, found.epochs) == (4, 2, 3, 1)
    assert (found.num_images, found.device, found.threads) == (24, "cpu", 1)
    assert found.jitter > 0
    assert step_of("--run", run, "--jitter", 0, "--epochs", 7).epochs == 7


def test_hops_grow_with_the_ranks_and_the_rest_of_a_measured_latency_does_not(tmp_path):
    """An empty allreduce of 8 ranks: 14 hops of at most 50 us, and the start."""
    for latency, hop, start in ((14 * 20e-6, 20e-6, 0.0), (14 * 50e-6 + 0.02, 50e-6, 0.02)):
        link = open_link(str(link_file(tmp_path, size=8, bandwidth=12e6, latency=latency)))
        assert link.bandwidth == 12e6
        assert link.latency == pytest.approx(hop)
        assert link.start == pytest.approx(start, abs=1e-12)
        assert link.cpu == NAMED["1GbE"].cpu


def test_hosts_of_several_ranks_are_planned_both_ways(tmp_path):
    file = tmp_path / "plan.json"
    main([*GIVEN, "--ranks", "4,8,16", "--json", str(file), "--compression", "none"])
    rows = json.loads(file.read_text())["predictions"]
    assert [(row["size"], row["reduction"]) for row in rows] == [
        (4, "ring"), (8, "ring"), (16, "ring"), (16, "hierarchical"),
    ]  # fmt: skip


def test_local_sgd_is_planned_with_weights_alone(tmp_path, capsys):
    file = tmp_path / "plan.json"
    main([*GIVEN, "--ranks", "2", "--sync_every", "4", "--json", str(file)])
    (row,) = json.loads(file.read_text())["predictions"]
    assert row["compression"] == "none"
    assert row["sent"] == pytest.approx(4 * 3e6 / 4, rel=0.01)
    assert "weights averaged every 4 updates" in capsys.readouterr().out


def test_what_cannot_be_planned_is_refused_by_name(run, tmp_path):
    assert "one of --run RUN" in refusal()
    assert "run and seconds" in refusal("--run", run, "--seconds", "1")
    assert "batch_size is missing" in refusal("--seconds", "1")
    assert "yolov5l-a100" in refusal("--published", "yolov9")
    assert "100G-IB" in refusal(*GIVEN, "--link", "2GbE")
    assert "metrics.jsonl is missing" in refusal("--run", tmp_path)
    assert "no measured allreduce" in refusal(*GIVEN, "--link", run / "environment.json")
    assert "no measured allreduce" in refusal(*GIVEN, "--link", run / "config.yaml")
    lonely = link_file(tmp_path, size=1, bandwidth=None, latency=0.0)
    assert "tell nothing of a link" in refusal(*GIVEN, "--link", lonely)
    assert "jobs of 0 ranks" in refusal(*GIVEN, "--ranks", "0,2")
    assert "numbers, comma separated" in refusal(*GIVEN, "--ranks", "two")
    assert job_sizes("8,2,2") == [2, 8]


def test_a_run_without_train_lines_or_of_several_ranks_is_refused(run, tmp_path):
    for name in ("config.yaml", "environment.json"):
        (tmp_path / name).write_text((run / name).read_text())
    (tmp_path / "metrics.jsonl").write_text('{"kind": "eval"}\n')
    assert "0 train lines in metrics.jsonl" in refusal("--run", tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"kind": "eval"}\n{"kind": "tr')
    assert "line 2 of metrics.jsonl is no JSON" in refusal("--run", tmp_path)
    (tmp_path / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text())
    start = json.loads((run / "environment.json").read_text())
    start[-1]["ranks"] *= 2
    (tmp_path / "environment.json").write_text(json.dumps(start))
    assert "2 ranks; a plan starts from a run on one" in refusal("--run", tmp_path)


def test_a_plot_without_matplotlib_names_the_extra(tmp_path):
    blocked = "import sys; sys.modules['matplotlib.figure'] = None\n"
    program = blocked + "from hvd_yolo.plan.__main__ import main; main(sys.argv[1:])"
    arguments = ["-c", program, *GIVEN, "--plot", str(tmp_path / "plan.png")]
    done = run_job(1, arguments)
    assert "pip install 'hvd_yolo[plots]'" in done.stderr
