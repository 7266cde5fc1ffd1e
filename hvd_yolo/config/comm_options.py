"""The options of how ranks talk."""

from dataclasses import dataclass
from typing import Literal

# Gradients of an update: kept by each rank for itself, summed as they are, or as comm.compression
# says.
Sharing = Literal["own", "whole", "compressed"]


@dataclass
class CommConfig:
    """How ranks talk.

    Args:
        backend: horovod, torch (torch.distributed, under torchrun), single (one process), or auto:
            what the launcher promised.
        groups: gradients are summed in so many fixed groups, each as soon as it is there; fixed, so
            that two runs give the same bits.
        cycle_ms: milliseconds between two looks of Horovod's background thread for work; 0: chosen
            from device and controller, as the banner says.
        fusion_mb: Horovod's fusion buffer, MB; 0: Horovod's own 128. A group is never fused with
            another.
        hierarchical: Horovod sums within each host first, then across (NCCL).
        timeline: file for Horovod's timeline (chrome://tracing); empty: none.
        compression: of gradients on the wire: none, fp16, bf16, powersgd (Vogels et al. 2019) or
            topk (Lin et al. 2018), the last two with error feedback.
        powersgd_rank: rank of the two factors of each matrix, which travel as float16.
        topk_share: share of the entries that topk sends.
        sync_every: local SGD (Stich 2019): ranks update on their own and average their weights
            every so many updates; momenta stay each rank's own and are averaged at checkpoints.
        warmup: epochs of ordinary updates before local SGD, powersgd or topk begins; the first
            gradients are the largest and the least alike (Lin et al. 2018, 2020).
        stall_timeout: seconds that ranks wait for one that stands still before it is named, with
            what it does, and the job ends; 0: for ever.
        commit_every: in an elastic job (horovodrun --host-discovery-script) every rank keeps a copy
            of the state in memory every so many updates; when ranks are lost, the updates since
            are made again.
        op: average, or adasum (Maleki et al. 2021; Horovod over MPI): what each rank's update
            changes is put together by Adasum, and the rate is not multiplied by the ranks.
    """

    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    groups: int = 4
    cycle_ms: float = 0.0
    fusion_mb: int = 0
    hierarchical: bool = False
    timeline: str = ""
    compression: Literal["none", "fp16", "bf16", "powersgd", "topk"] = "none"
    powersgd_rank: int = 8
    topk_share: float = 0.01
    sync_every: int = 1
    warmup: float = 3.0
    stall_timeout: float = 300.0
    commit_every: int = 50
    op: Literal["average", "adasum"] = "average"

    @property
    def shares_every_update(self) -> bool:
        """Whether every update takes the gradients of all ranks."""
        return self.sync_every == 1 and self.op == "average"

    @property
    def is_lossy(self) -> bool:
        """Whether a rank keeps a part of each gradient for later."""
        return self.compression in ("powersgd", "topk")

    def sharing_at(self, epoch: float) -> Sharing:
        """What becomes of the gradients of the update after so many epochs, a real number."""
        if self.op == "adasum":
            return "own"
        if self.sync_every > 1:
            return "own" if epoch >= self.warmup else "whole"
        is_early = self.is_lossy and epoch < self.warmup
        return "whole" if is_early else "compressed"
