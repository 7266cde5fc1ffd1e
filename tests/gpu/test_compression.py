"""Compressed gradients on the pretend device."""

import pytest

from tests.conftest import run_job

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("launcher", ["gloo", "torchrun"])
def test_compressed_gradients_do_not_make_the_host_wait(launcher, is_pretend):
    if not is_pretend:
        pytest.skip("counts what the pretend device sees")
    words = ["-m", "tests.pretend_cuda.run", "-m", "tests.gpu.programs.compression"]
    done = run_job(2, words, launcher, PRETEND_CUDA_DEVICES="2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("agrees") == 2
