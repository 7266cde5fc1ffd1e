"""`python -m hvd_yolo.plan` from end to end: a real run, a link's file, a table and a plot."""

import json

import cv2
import pytest

from hvd_yolo.config import parse
from hvd_yolo.config.plan_verb import PlanConfig
from hvd_yolo.errors import InputError
from hvd_yolo.plan.__main__ import main
from hvd_yolo.plan.inputs import find_step, job_sizes, make_cluster
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


def link_file(folder, cycle_ms="20", hosts=2, **found):
    """What the doctor writes of a link; cycle_ms: of its Horovod, None under torch.distributed."""
    settings = {"HOROVOD_CYCLE_TIME": cycle_ms} if cycle_ms else {"torch.distributed": "gloo"}
    file = folder / "doctor.json"
    file.write_text(json.dumps({"link": {"hosts": hosts, **found}, "settings": settings}))
    return file


def test_a_run_a_link_and_a_plan(run, tmp_path):
    link = link_file(tmp_path, size=2, bandwidth=1e7, latency=22.1e-3)
    out, plot = tmp_path / "plan.json", tmp_path / "plan.png"
    done = run_job(1, ["-m", "hvd_yolo.plan", "--run", str(run), "--link", str(link),
                       "--json", str(out)])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "10 MB/s usable each way, 50 us a hop, 12 ms to start" in done.stdout
    assert "2 ranks on 2 hosts" in done.stdout
    assert "left out: evaluation" in done.stdout
    rows = json.loads(out.read_text())["predictions"]
    assert {row["size"] for row in rows} == {2**i for i in range(11)}
    assert {row["compression"] for row in rows} == {"none", "fp16", "bf16", "powersgd", "topk"}
    alone = [row for row in rows if row["size"] == 1]
    assert all(row["efficiency"] == 1 and row["sent"] == 0 for row in alone)
    chosen = {row["size"]: row["compression"] for row in rows if row["is_best"]}
    assert len(chosen) == 11
    # 12.6 MB at 10 MB/s beside so short an update: nobody sends that dense.
    assert chosen[2] in ("powersgd", "topk")
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
        file = link_file(tmp_path, cycle_ms=None, size=8, bandwidth=12e6, latency=latency)
        link = open_link(str(file), 0.0, 2)
        assert link.bandwidth == 12e6
        assert link.latency == pytest.approx(hop)
        assert link.start == pytest.approx(start, abs=1e-12)
        assert link.cpu == NAMED["1GbE"].cpu


@pytest.mark.parametrize(("cycle_ms", "waited"), [("20", 0.020), ("5", 0.005), (None, 0.0)])
def test_the_doctor_waits_for_a_whole_cycle_and_a_gradient_for_half_of_its_own(
    cycle_ms, waited, tmp_path
):
    """The doctor's cycle, 2 hops of 50 us and 3 ms to agree; torch.distributed has no cycle."""
    latency = waited + 2 * 50e-6 + 3e-3
    file = link_file(tmp_path, cycle_ms=cycle_ms, size=2, bandwidth=1e7, latency=latency)
    expected = 3e-3 + (4e-3 if cycle_ms else 0.0)
    assert open_link(str(file), 8e-3, 2).start == pytest.approx(expected)


def test_a_named_link_starts_after_half_of_the_cycle_that_training_takes(run, tmp_path):
    def start(*options):
        config = parse(PlanConfig, ["--link", "1GbE", *options], "hvd_yolo.plan")
        return make_cluster(config, find_step(config)).outer.start

    assert start(*GIVEN) == 0.5e-3
    assert start(*GIVEN, "--device", "cpu") == 10e-3
    assert start(*GIVEN, "--device", "cpu", "--cycle_ms", "4") == 2e-3
    assert start("--run", str(run)) == 10e-3
    text = (run / "config.yaml").read_text()
    for name in ("metrics.jsonl", "environment.json"):
        (tmp_path / name).write_text((run / name).read_text())
    (tmp_path / "config.yaml").write_text(text.replace("cycle_ms: 0.0", "cycle_ms: 6.0"))
    assert start("--run", str(tmp_path)) == 3e-3


def test_ranks_on_cpus_are_not_planned_hierarchically(tmp_path):
    """comm.hierarchical is NCCL's alone."""
    file = tmp_path / "plan.json"
    main([*GIVEN, "--device", "cpu", "--ranks_per_host", "4", "--ranks", "16", "--json", str(file)])
    rows = json.loads(file.read_text())["predictions"]
    assert {row["reduction"] for row in rows} == {"ring"}


def test_a_link_within_a_host_is_no_link_between_hosts(tmp_path):
    file = link_file(tmp_path, hosts=1, size=2, bandwidth=3e8, latency=0.02)
    assert "give the file as --inner_link" in refusal(*GIVEN, "--link", file)
    config = parse(PlanConfig, [*GIVEN, "--inner_link", str(file)], "hvd_yolo.plan")
    assert make_cluster(config, find_step(config)).inner.bandwidth == 3e8


def test_the_files_folders_are_made_and_what_cannot_be_written_is_refused(tmp_path):
    file = tmp_path / "new" / "folder" / "plan.json"
    main([*GIVEN, "--ranks", "2", "--json", str(file)])
    assert json.loads(file.read_text())["predictions"]
    below = file / "plan"
    assert f"json {below} cannot be written" in refusal(*GIVEN, "--json", below)
    pytest.importorskip("matplotlib")
    assert f"plot {below} cannot be written" in refusal(*GIVEN, "--plot", below)
    main([*GIVEN, "--ranks", "2", "--plot", str(tmp_path / "plots" / "plan.png")])
    assert (tmp_path / "plots" / "plan.png").is_file()


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
    for missing in ({"bandwidth": 1e7, "latency": None}, {"bandwidth": "fast", "latency": 0.0}):
        file = link_file(tmp_path, size=2, **missing)
        assert "no measured allreduce" in refusal(*GIVEN, "--link", file)
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


def test_a_run_with_sync_bn_is_refused(run, tmp_path):
    for name in ("metrics.jsonl", "environment.json"):
        (tmp_path / name).write_text((run / name).read_text())
    text = (run / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("sync_bn: false", "sync_bn: true"))
    assert "train.sync_bn" in refusal("--run", tmp_path)


def test_a_plot_without_matplotlib_names_the_extra(tmp_path):
    blocked = "import sys; sys.modules['matplotlib.figure'] = None\n"
    program = blocked + "from hvd_yolo.plan.__main__ import main; main(sys.argv[1:])"
    arguments = ["-c", program, *GIVEN, "--plot", str(tmp_path / "plan.png")]
    done = run_job(1, arguments)
    assert "pip install 'hvd_yolo[plots]'" in done.stderr
