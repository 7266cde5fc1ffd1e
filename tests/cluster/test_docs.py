"""The commands of docs/ run as they stand, on two small hosts in place of node1 and node2, on a
small data set; those that cannot be run here say so."""

import re

import pytest

from tests.cluster.conftest import needs_hosts, write_shapes
from tests.conftest import REPOSITORY, needs_mpi
from tests.teachers import write_teacher

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
NOT_RUN = "# not run by this project's tests"
# What is smaller here; {data}, {out}: a data set and an empty folder.
SMALLER = {
    "coco.yaml": "{data}/data.yaml",
    "my_data.yaml": "{data}/data.yaml",
    "runs/l/checkpoints/best.pt": "{data}/trained.pt",
    "yolov8s.pt": "{data}/trained.pt",
    "node1:8,node2:8": "node1:1,node2:1",
    "node1:4,node2:4": "node1:1,node2:1",
    "hostfiles/two_nodes.txt": "{out}/hosts.txt",
    "hostfiles/openmpi.txt": "{out}/hosts.txt",
    "-np 16": "-np 2",
    "-np 8": "-np 2",
    "--local 8": "--local 2",
    "--nproc-per-node 8": "--nproc-per-node 1",
    "--nnodes 2": "--nnodes 1",
    "--epochs 300": "--epochs 1",
    "--epochs 30": "--epochs 1",
    "--space space.yaml": "--space {out}/space.yaml --output {out}/tune",
    "--trials 40": "--trials 2",
    "--trials 9": "--trials 2",
    "yolov8s": "yolov8n",
    "runs/coco": "{out}/runs/coco",
    "coco/ --to yolo --output coco_yolo": "{data}/data.yaml --to coco --output {out}/converted",
    "--output dealt": "--output {out}/dealt",
    "check.json": "{out}/check.json",
    "doctor.json": "{out}/doctor.json",
    "--sheets 4": "--sheets 1 --output {out}/drawn",
    "/nvme": "{out}/staged",
}
# Tests that run what stands there, for a line that needs more than two hosts.
ELSEWHERE = {
    "make setup": "what every test needs",
    "sbatch": "tests/cluster/test_slurm.py",
    "python -m hvd_yolo.launch --slurm": "tests/cluster/test_slurm.py",
    "horovodrun -np 2 -H node1:2": "tests/cluster/test_tune.py",
    "python -m hvd_yolo.plan": "tests/plan/test_plan_verb.py",
}


def commands(file, with_those_not_run=True):
    """Those in its bash blocks, without what is said of them."""
    blocks = re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [
        re.split(r"\s{2,}#", line)[0].strip()
        for line in lines
        if with_those_not_run or NOT_RUN not in line
    ]


def to_run():
    found = {line: file.name for file in reversed(DOCS) for line in commands(file, False)}
    return [
        pytest.param(line, id=f"{name}: {line[:60]}")
        for line, name in found.items()
        if not line.startswith(tuple(ELSEWHERE))
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder)
    write_teacher(folder / "trained.pt", "yolov8n")
    return folder


@pytest.mark.long
@needs_mpi
@needs_hosts
@pytest.mark.parametrize("line", to_run())
def test_every_command_runs(lab, data, tmp_path, line):
    (tmp_path / "hosts.txt").write_text("node1 slots=1\nnode2 slots=1\n")
    (tmp_path / "space.yaml").write_text("optim.lr: [0.001, 0.002]\n")
    for word, smaller in SMALLER.items():
        line = line.replace(word, smaller.format(data=data, out=tmp_path))
    trains = re.search(r"hvd_yolo\.train|-- train", line) and "--dry_run" not in line
    if trains:
        line += " --imgsz 64 --epochs 1 --device cpu --report.plots false"
        if "--output" not in line:
            line += f" --output {tmp_path}/run"
    if "tune --space" in line:
        line += " --imgsz 64 --device cpu --report.plots false"
    line = line.replace("mpirun ", "mpirun --allow-run-as-root ", 1)
    done = lab.run("node1", ["bash", "-c", line], HOROVOD_CYCLE_TIME="1")
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert not (trains or "tune --space" in line) or "done: " in done.stdout


@pytest.mark.parametrize("file", [*REPOSITORY.glob("*.md"), *DOCS], ids=lambda file: file.name)
def test_what_the_docs_name_is_there(file):
    """Links, and files of the repository."""
    text = file.read_text()
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (file.parent / link).exists(), link
    for name in re.findall(r"\b(?:hostfiles|docker|tests|benchmarks|configs)/[\w./-]*\w", text):
        assert (REPOSITORY / name).exists(), name


@pytest.mark.parametrize(
    "name",
    [
        "README",
        *(f"docs/{file.name.removesuffix('.zh-CN.md')}" for file in DOCS if "zh-CN" in file.name),
    ],
)
def test_both_languages_give_the_same_commands(name):
    english, chinese = (REPOSITORY / f"{name}{ending}.md" for ending in ("", ".zh-CN"))
    assert commands(english) == commands(chinese)
    assert english.read_text().count("\n| ") == chinese.read_text().count("\n| ")


@pytest.mark.parametrize("ending", ["", ".zh-CN"])
def test_what_the_readme_promises_is_in_the_whole_list(ending):
    readme, promises = (REPOSITORY / f"{name}{ending}.md" for name in ("README", "docs/promises"))
    rows = promises.read_text().replace("](../", "](").splitlines()
    told = re.findall(r"^\| .*`(?:pytest|python) .*\|$", readme.read_text(), re.MULTILINE)
    assert len(told) > 10
    assert set(told) <= set(rows)
