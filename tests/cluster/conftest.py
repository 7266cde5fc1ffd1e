"""What tests on several hosts share."""

import pytest

from tests.cluster import hosts
from tests.conftest import run_job

needs_hosts = pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """node1 and node2."""
    with hosts.made(2, tmp_path_factory.mktemp("lab")) as made:
        yield made


def write_shapes(folder):
    """36 drawn images as a data set of YOLO text."""
    convert = ["-m", "hvd_yolo.data", "convert", "--data", "shapes:36", "--to", "yolo"]
    done = run_job(1, [*convert, "--output", str(folder)])
    assert done.returncode == 0, done.stderr
