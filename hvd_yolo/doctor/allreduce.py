"""How long a sum over all ranks takes, by its size: bandwidth and latency of the whole job."""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from hvd_yolo.comm import Comm, gather_json

# More large ones than small, for each counts the same in the fit: gradients are megabytes.
_BYTES = (4, 4_000, 64_000, *(500_000 << shift for shift in range(8)))

# Below, a sum takes as long as its latency, whatever the bandwidth.
_LEAST_FITTED = 500_000
_MOST_REPEATS = 9


@dataclass
class Sample:
    """The median seconds that summing so many bytes of float32 took, of the slowest rank."""

    bytes: int
    seconds: float


@dataclass
class Link:
    """T(K) = 2 (N - 1) / N K / bandwidth + latency, in seconds for K bytes on N = size ranks: a
    ring's allreduce (Patarasuk and Yuan 2009). bandwidth (bytes a second) is None where
    nothing was measured, or only small sums, whose median is the latency then."""

    size: int
    hosts: int
    bandwidth: float | None
    latency: float
    samples: list[Sample]


def measure(comm: Comm, num_hosts: int, seconds: float) -> Link:
    """Sums over ever more bytes until about so many seconds are spent; every rank calls it."""
    samples: list[Sample] = []
    left = seconds
    while comm.size > 1 and left > 0 and len(samples) < len(_BYTES):
        num_bytes = _BYTES[len(samples)]
        expected = _expected(samples, num_bytes)
        if 2 * expected > left:
            break
        repeats = int(left / 4 / expected) - 1 if expected else _MOST_REPEATS
        repeats = max(1, min(_MOST_REPEATS, repeats))
        started = time.perf_counter()
        median = statistics.median(_times(comm, num_bytes, repeats))
        # The slowest rank's, on every rank: all must come to the same decisions.
        told = gather_json(comm, [median, time.perf_counter() - started])
        samples.append(Sample(num_bytes, max(median for median, _ in told)))
        left -= max(spent for _, spent in told)
    return fit(comm.size, num_hosts, samples)


def fit(size: int, num_hosts: int, samples: list[Sample]) -> Link:
    """The bandwidth and latency whose relative errors over the samples are least in squares,
    neither of them below 0."""
    if not samples:
        return Link(size, num_hosts, None, 0.0, [])
    if samples[-1].bytes < _LEAST_FITTED:
        median = statistics.median(sample.seconds for sample in samples)
        return Link(size, num_hosts, None, median, samples)
    num_bytes = np.array([sample.bytes for sample in samples], dtype=np.float64)
    seconds = np.array([sample.seconds for sample in samples])
    columns = np.stack((num_bytes, np.ones_like(seconds)), 1) / seconds[:, None]
    target = np.ones_like(seconds)
    per_byte, latency = np.linalg.lstsq(columns, target, rcond=None)[0].tolist()
    if latency < 0:
        per_byte, latency = float(columns[:, 0] @ target / (columns[:, 0] @ columns[:, 0])), 0.0
    if per_byte <= 0:
        per_byte, latency = float(seconds[-1] / num_bytes[-1]), float(seconds[0])
    return Link(size, num_hosts, 2 * (size - 1) / size / per_byte, latency, samples)


def _expected(samples: list[Sample], num_bytes: int) -> float:
    """Seconds for so many bytes, no fewer than the last took, from the two before; 0 if unknown."""
    if len(samples) < 2:
        return 0.0
    last = samples[-1]
    grown = (last.seconds - samples[0].seconds) * num_bytes / last.bytes
    return max(last.seconds, samples[0].seconds + grown)


def _times(comm: Comm, num_bytes: int, repeats: int) -> list[float]:
    """Seconds of each sum, with all ranks at the start; the first, which sets up connections, is
    not among them."""
    tensor = torch.zeros(num_bytes // 4, device=comm.device)
    found = []
    for _ in range(repeats + 1):
        comm.barrier()
        started = time.perf_counter()
        comm.sum(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
        found.append(time.perf_counter() - started)
    return found[1:]
