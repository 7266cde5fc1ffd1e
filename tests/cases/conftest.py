"""The cases: small data sets on which a detector trainer easily goes wrong without saying so."""

import subprocess
import sys

import pytest

from tests.cases.running import Cases
from tests.conftest import DATA, job_environment


@pytest.fixture(scope="session")
def cases(bccd, tmp_path_factory):
    """All cases, made anew, for the commands change some of them."""
    generator = DATA.parent / "cases" / "make_cases.py"
    if not generator.is_file():
        pytest.skip(f"the generator of the cases is not at {generator}")
    folder = tmp_path_factory.mktemp("cases") / "cases"
    command = [sys.executable, str(generator), str(folder), "--data", str(bccd.parent)]
    subprocess.run(command, check=True, capture_output=True, env=job_environment())
    return Cases(folder)


@pytest.fixture(scope="session")
def weights(cases):
    """The cases, with the checkpoint of plain_yolo that their `predict` commands take."""
    _, train = cases.run("plain_yolo")
    assert train.code == 0, train.text
    return cases
