"""Compressors of hvd.DistributedOptimizer."""

from torch import Tensor

from hvd_yolo.comm.buckets import in_memory_order


class InPlace:
    """A Horovod compressor that changes nothing but the view: Horovod refuses channels_last
    gradients.

    A gradient has its parameter's strides on every rank, so its memory is the same dense run of
    numbers everywhere; that run is summed in place.
    """

    @staticmethod
    def compress(tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The memory of the tensor as one dimension, and the tensor itself."""
        return in_memory_order(tensor), tensor

    @staticmethod
    def decompress(_: Tensor, original: Tensor) -> Tensor:
        """The tensor, whose memory now holds the sum."""
        return original


class InHalf:
    """The same, sent and summed as float16: Horovod's own refuses channels_last as well."""

    @staticmethod
    def compress(tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The memory of the tensor in float16, and the tensor itself."""
        return in_memory_order(tensor).half(), tensor

    @staticmethod
    def decompress(total: Tensor, original: Tensor) -> Tensor:
        """The tensor, with the sum in it."""
        in_memory_order(original).copy_(total)
        return original
