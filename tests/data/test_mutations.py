import json
import subprocess
import sys

from tests.conftest import REPOSITORY, job_environment
from tests.data import mutations


def test_a_thousand_mutated_data_sets_are_read_or_refused_by_name(tmp_path):
    """In a process of its own, so that a crash of a decoder or parser is seen as one."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.mutations", str(tmp_path)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
        cwd=REPOSITORY,
        env=job_environment(),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]}\n{done.stderr[-3000:]}"
    cases = [line for line in lines if "outcome" in line]
    assert len(cases) == mutations.NUM_CASES
    assert max(case["seconds"] for case in cases) < 5
    assert cases[-1]["peak_mib"] - cases[0]["peak_mib"] < 200
    for kind, expected in mutations.KINDS.items():
        found = {case["outcome"] for case in cases if case["kind"] == kind.__name__}
        assert found and found <= expected
