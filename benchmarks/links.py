"""Links between GPUs, with their published speeds, and what collectives take on them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How fast the GPUs of a group are for one another."""

    bandwidth: float
    """Bytes a second from each to the next, one way."""
    latency: float
    """Seconds that a message takes beside, in the mean over the links of a ring."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Machines of GPUs. Rates are published, latencies assumed."""

    peak: float
    """FLOP/s of a GPU's dense 16-bit products."""
    inside: float
    """Bytes a second from a GPU to those of its machine, one way."""
    between: float
    """Bytes a second from a machine to another, one way, over all of its adapters."""
    machine: int = 8
    """GPUs of a machine."""
    inside_latency: float = 5e-6
    between_latency: float = 10e-6

    def way(self, gpus: int) -> Way:
        """Of `gpus` GPUs, machine after machine.

        As many rings as a machine has adapters leave it by one each, so that all of them count.
        """
        if gpus <= self.machine:
            return Way(bandwidth=self.inside, latency=self.inside_latency)
        across = math.ceil(gpus / self.machine) / gpus
        return Way(
            bandwidth=min(self.inside, self.between),
            latency=across * self.between_latency + (1 - across) * self.inside_latency,
        )

    def between_machines(self) -> Way:
        """Of GPUs with the same place in their machines, while those of all places send."""
        return Way(bandwidth=self.between / self.machine, latency=self.between_latency)


CLUSTERS = {
    # NVIDIA's data sheets: H100 SXM 989 TFLOP/s, NVLink 900 GB/s for both ways together; DGX H100
    # an InfiniBand adapter of 400 Gb/s for each GPU.
    "h100-infiniband": Cluster(peak=989e12, inside=450e9, between=8 * 50e9),
    # The same with one Ethernet adapter of 100 Gb/s (IEEE 802.3) for a machine.
    "h100-ethernet": Cluster(peak=989e12, inside=450e9, between=12.5e9),
    # NVIDIA's data sheets: V100 SXM2 125 TFLOP/s, NVLink 300 GB/s for both ways together; DGX-1
    # four InfiniBand adapters of 100 Gb/s.
    "v100-infiniband": Cluster(peak=125e12, inside=150e9, between=4 * 12.5e9),
    # NVIDIA's data sheet: L40S 362 TFLOP/s, PCIe 4.0 x16 of 64 GB/s for both ways together.
    "l40s-ethernet": Cluster(peak=362e12, inside=32e9, between=12.5e9),
}


def ring_gather(size: float, ranks: int, way: Way) -> float:
    """Seconds of an all-gather to `size` bytes, or of a reduce-scatter of them."""
    return (ranks - 1) * (size / ranks / way.bandwidth + way.latency)


def ring_all_reduce(size: float, ranks: int, way: Way) -> float:
    """Seconds: a reduce-scatter, then an all-gather."""
    return 2 * ring_gather(size, ranks, way)


def tree_all_reduce(size: float, ranks: int, way: Way) -> float:
    """Seconds by two binary trees, through each of which goes half."""
    return 2 * (size / way.bandwidth + math.ceil(math.log2(ranks)) * way.latency)


def all_reduce(size: float, ranks: int, way: Way) -> float:
    """Seconds by whichever is faster; trees are for many ranks and few bytes."""
    if ranks == 1:
        return 0.0
    return min(ring_all_reduce(size, ranks, way), tree_all_reduce(size, ranks, way))
