"""The programs in benchmarks/ run, and the figures that came from them name their commit."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster import hosts
from tests.conftest import REPOSITORY, run_job

BENCHMARKS = REPOSITORY / "benchmarks"
# What another benchmark starts on each rank, and runs with it.
RANK_PROGRAMS = {
    "scaling_rank.py": "scaling.py",
    "gpu_check_rank.py": "gpu_check_parts.py",
    "many_ranks_rank.py": "many_ranks.py",
}
NEED_HOSTS = {"compression.py", "planner.py"}


def programs():
    """The files that are started, not imported."""
    return sorted(
        file.name
        for file in BENCHMARKS.glob("*.py")
        if 'if __name__ == "__main__":' in file.read_text() and file.name not in RANK_PROGRAMS
    )


def test_rank_programs_are_started_by_a_benchmark():
    for program, starter in RANK_PROGRAMS.items():
        assert Path(program).stem in (BENCHMARKS / starter).read_text()


@pytest.mark.parametrize("program", programs())
def test_benchmark_runs(program):
    if program in NEED_HOSTS and hosts.missing():
        pytest.skip(hosts.missing())
    results = (BENCHMARKS / program).with_suffix(".smoke.json")
    results.unlink(missing_ok=True)
    done = run_job(1, [f"benchmarks/{program}", "--smoke"], PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^Measured at commit `\S+`\.$", done.stdout, re.MULTILINE)
    assert results.is_file()


# A commit in backticks, as `benchmarks/*.py` print it with their table.
COMMIT = re.compile(r"`([0-9a-f]{7,40})`")
# A cell that is a measured number, with its unit or spread, and not the number of ranks or epochs.
FIGURE = re.compile(r"\**\d[\d,]*(\.\d+)?\**( ?[%x]| (s|ms|min|MB|GB)\b.*| \(.*\)| / .*)?$")
DOCUMENTS = sorted(
    file
    for folder in (REPOSITORY / "docs", BENCHMARKS)
    for file in folder.glob("*.md")
    if not file.name.endswith(".pretend.md")
)


def sections(text):
    """The parts of a document between two headings, code blocks left as they are."""
    return re.split(r"^#+ ", text, flags=re.MULTILINE)


def rows(section):
    return [line for line in section.splitlines() if line.startswith("|")]


def has_figures(section):
    """Whether a table of the section has a row with two figures or more."""
    cells = ([cell.strip() for cell in row.split("|")] for row in rows(section))
    return any(sum(bool(FIGURE.match(cell)) for cell in row) > 1 for row in cells)


def own_commit(document):
    """Whether the document names one commit for all its tables, above the first of its sections
    that has one."""
    return bool(COMMIT.search("".join(sections(document.read_text())[:2])))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_figures_name_their_commit(document):
    for section in sections(document.read_text()):
        if has_figures(section) and not COMMIT.search(section):
            assert own_commit(document), f"figures without a commit:\n{section[:500]}"
        for row in rows(section):
            if "python benchmarks/" not in row:
                continue
            linked = re.findall(r"\]\(([\w./-]+\.md)\)", row)
            texts = [row, *((document.parent / link).read_text() for link in linked)]
            assert any(map(COMMIT.search, texts)), f"no commit for the figures of {row}"


def test_figures_are_recognized_and_counts_are_not():
    assert has_figures("| hvd_yolo | 4.52 | 1.42 |")
    assert has_figures("| **PowerSGD** | 4.40 | **5.12** | 25 % | 0.635 (+4.9 %) |")
    assert not has_figures("| `--distill.cls 4` | the probability | the teacher's |")


def test_named_commits_exist():
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git repository")
    shallow = ["git", "rev-parse", "--is-shallow-repository"]
    answer = subprocess.run(shallow, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if answer.stdout != "false\n":
        pytest.skip("a shallow clone does not have the commits")
    for document in DOCUMENTS:
        for name in COMMIT.findall(document.read_text()):
            found = ["git", "cat-file", "-e", f"{name}^{{commit}}"]
            done = subprocess.run(found, cwd=REPOSITORY, capture_output=True, check=False)
            assert done.returncode == 0, f"{document.name} names {name}, which is no commit"
