"""What Horovod and Open MPI read from the environment when they start."""

import os

from hvd_yolo.comm import launch, stream_group
from hvd_yolo.config import CommConfig
from hvd_yolo.errors import OptionError

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
        if not latency_bound:
            chosen["HOROVOD_CYCLE_TIME"] = f"{cycle:g}"
        elif not launch.is_elastic():
            # Horovod's own; in an elastic job rather left out, see _spoils_fusion().
            chosen["HOROVOD_CYCLE_TIME"] = "1"
        chosen["OMPI_MCA_mpi_yield_when_idle"] = "1"
    elif latency_bound and not stream_group.is_supported(launch.is_elastic()):
        chosen["HOROVOD_CYCLE_TIME"] = f"{_GPU_LATENCY_CYCLE_MS:g}"
    if has_nccl and not launch.is_elastic() and not options.timeline:
        # A sum is over for the host when NCCL's kernel is in the stream, on which what follows
        # waits. Not in an elastic job: who does not wait does not notice that NCCL lost a rank;
        # not for a timeline, which waits for the kernels anyway.
        chosen["HOROVOD_ENABLE_ASYNC_COMPLETION"] = "1"
    if launch.is_elastic() and (options.fusion_mb or "HOROVOD_FUSION_THRESHOLD" in os.environ):
        chosen.pop("HOROVOD_CYCLE_TIME", None)
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
    if launch.is_elastic():
        _refuse_both()
    if launch.is_elastic() and _spoils_fusion():
        chosen["HOROVOD_CACHE_CAPACITY"] = "0"
        os.environ.setdefault("HOROVOD_CACHE_CAPACITY", "0")
    return {name: os.environ[name] for name in chosen | said}


def _refuse_both() -> None:
    """Raises OptionError for what ends in a segmentation fault (writing to an empty vector, see
    _spoils_fusion) when ranks come or go."""
    if "HOROVOD_CYCLE_TIME" in os.environ and "HOROVOD_FUSION_THRESHOLD" in os.environ:
        raise OptionError(
            "Horovod 0.28.1 crashes in an elastic job whose cycle time and fusion buffer are both "
            "set: leave out comm.cycle_ms (HOROVOD_CYCLE_TIME) or comm.fusion_mb "
            "(HOROVOD_FUSION_THRESHOLD)"
        )


def _spoils_fusion() -> bool:
    """Whether ranks that were there before and ranks that are new would fuse tensors otherwise.

    What the environment sets of cycle time and fusion buffer, Horovod 0.28.1 takes out of a vector
    of parameters (BayesianParameter::SetValue); the default that a second hvd.init() in the same
    process sets before it lands on the other one: a cycle time that is set makes the fusion buffer
    1 MB. As long as rank 0 alone decides what is fused, that does no harm. With the response cache,
    which is empty again on all ranks after hvd.init(), each rank decides for itself, and Gloo
    aborts. Without the cache all requests go to rank 0 in every cycle.
    """
    names = ("HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD", "HOROVOD_AUTOTUNE")
    return any(name in os.environ for name in names)
