"""What Horovod and Open MPI read from the environment when they start."""

import os

from hvd_yolo.comm import launch, stream_group
from hvd_yolo.config import CommConfig

# Ranks compute on the cores that Horovod's background thread polls from: looking every
# millisecond, as it would by itself, costs a fifth of a YOLOv8n's step on two full cores
# (benchmarks/scaling.md).
CPU_CYCLE_MS = 20.0
_QUICK_CYCLE_MS = 5.0
# Where SyncBatchNorm's sums on GPUs go through Horovod, each of them waits for the next cycle. 0
# would poll without a pause, and keep a core and the controller's network busy.
_GPU_LATENCY_CYCLE_MS = 0.1


def choose_settings(
    on_cpu: bool, has_nccl: bool, latency_bound: bool, options: CommConfig
) -> dict[str, str]:
    """Sets what Horovod and Open MPI read at start, unless the user did, and returns what is in
    force."""
    chosen = {"HOROVOD_DISABLE_GROUP_FUSION": "1"}
    if on_cpu:
        # Where many small collectives follow one another each look is a wait, and must be quick in
        # any case; where a gradient takes two messages, quicker.
        cycle = _QUICK_CYCLE_MS if options.compression in ("bf16", "powersgd") else CPU_CYCLE_MS
        chosen["HOROVOD_CYCLE_TIME"] = "1" if latency_bound else f"{cycle:g}"
        chosen["OMPI_MCA_mpi_yield_when_idle"] = "1"
    elif latency_bound and not stream_group.is_supported(launch.is_elastic()):
        chosen["HOROVOD_CYCLE_TIME"] = f"{_GPU_LATENCY_CYCLE_MS:g}"
    if has_nccl and not launch.is_elastic() and not options.timeline:
        # A sum is over for the host when NCCL's kernel is in the stream, on which what follows
        # waits. Not in an elastic job: who does not wait does not notice that NCCL lost a rank;
        # not for a timeline, which waits for the kernels anyway.
        chosen["HOROVOD_ENABLE_ASYNC_COMPLETION"] = "1"
    if launch.is_elastic():
        # Kept over hvd.init(), it differs between ranks that were there before and ranks that are
        # new: they fuse tensors otherwise, and Gloo aborts.
        chosen["HOROVOD_CACHE_CAPACITY"] = "0"
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    # What is said on the command line comes before the environment.
    said = {
        "HOROVOD_CYCLE_TIME": f"{options.cycle_ms:g}" if options.cycle_ms else "",
        "HOROVOD_FUSION_THRESHOLD": f"{options.fusion_mb << 20}" if options.fusion_mb else "",
        "HOROVOD_HIERARCHICAL_ALLREDUCE": "1" if options.hierarchical else "",
        "HOROVOD_TIMELINE": options.timeline,
    }
    said = {name: value for name, value in said.items() if value}
    os.environ.update(said)
    return {name: os.environ[name] for name in chosen | said}
