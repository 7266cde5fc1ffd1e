"""What moves the tensors of a Comm: NCCL, MPI or Gloo."""

import os

from hvd_yolo.comm import Comm


def engine(comm: Comm) -> dict[str, str]:
    """Who negotiates (controller), who adds up tensors of the CPU (cpu) and of the GPU that the
    rank computes on (gpu); empty for one process without an engine."""
    if comm.name == "horovod":
        found = _of_horovod()
    elif comm.name == "torch":
        found = {"controller": "torch.distributed", "cpu": "gloo", "gpu": "nccl"}
    else:
        found = {}
    if comm.device.type == "cpu":
        found.pop("gpu", None)
    return found


def _of_horovod() -> dict[str, str]:
    import horovod.torch as hvd

    controller = "gloo" if hvd.gloo_enabled() else "mpi"
    on_cpu = os.environ.get("HOROVOD_CPU_OPERATIONS", controller).lower()
    return {
        "controller": controller,
        "cpu": on_cpu,
        "gpu": "nccl" if hvd.nccl_built() else f"{on_cpu}, by way of the host",
    }


def has_mpi() -> bool:
    """Whether Horovod is installed and was built with MPI."""
    try:
        import horovod.torch as hvd
    except ImportError:
        return False
    return bool(hvd.mpi_built())
