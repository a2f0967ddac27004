"""The arithmetic of the simulated cluster, against what a sheet of paper says."""

import sys
from dataclasses import replace

import pytest

from dalle.models.dalle import Dalle, DalleConfig
from tests.test_floors import PACKAGE

sys.path.append(str(PACKAGE.parent / "benchmarks"))

import links
import simulate_scaling as simulated

WAY = links.Way(bandwidth=1e9, latency=0.0)
SLOW = links.Way(bandwidth=1e9, latency=1e-3)
CLUSTER = links.Cluster(peak=1e15, inside=100e9, between=10e9)
TOY = simulated.Model(
    name="toy", shapes=((4096, 4096), (4096,)), layers=1, flop=1e12, sequences=1, rank=64
)


@pytest.mark.parametrize("ranks", [2, 8, 1024])
def test_a_ring_sends_all_but_its_own_part(ranks: int) -> None:
    assert links.ring_gather(8e9, ranks, WAY) == pytest.approx(8 * (ranks - 1) / ranks)
    assert links.ring_all_reduce(8e9, ranks, WAY) == pytest.approx(16 * (ranks - 1) / ranks)
    assert links.ring_all_reduce(0.0, ranks, SLOW) == pytest.approx(2 * (ranks - 1) / 1000)


def test_few_bytes_take_the_tree_and_many_the_ring() -> None:
    assert links.all_reduce(1e3, 1024, SLOW) == pytest.approx(20e-3, rel=0.01)
    assert links.all_reduce(1e12, 8, SLOW) == links.ring_all_reduce(1e12, 8, SLOW)
    assert links.all_reduce(1e12, 1, SLOW) == 0.0


def test_a_machines_adapters_are_shared_by_its_gpus() -> None:
    assert CLUSTER.way(8).bandwidth == 100e9
    assert CLUSTER.way(16).bandwidth == 10e9
    assert CLUSTER.between_machines().bandwidth == 10e9 / 8
    # Two of sixteen links of the ring leave a machine.
    assert CLUSTER.way(16).latency == pytest.approx((2 * 10e-6 + 14 * 5e-6) / 16)


@pytest.mark.parametrize("strategy", simulated.STRATEGIES)
def test_one_gpu_waits_for_nobody(strategy: str) -> None:
    step = simulated.simulate(TOY, strategy, 1, CLUSTER, share=0.5)
    assert step.seconds(hidden=False) == pytest.approx(1e12 / 0.5e15)
    assert (step.communication_share(hidden=False), step.efficiency(hidden=True)) == (0.0, 1.0)


@pytest.mark.parametrize("strategy", simulated.STRATEGIES)
def test_twice_the_bandwidth_halves_what_is_sent(strategy: str) -> None:
    def waiting(speed: float) -> float:
        fast = replace(
            CLUSTER,
            inside=CLUSTER.inside * speed,
            between=CLUSTER.between * speed,
            inside_latency=0.0,
            between_latency=0.0,
        )
        step = simulated.simulate(TOY, strategy, 64, fast, share=0.5)
        return step.seconds(hidden=False) - step.forward - step.backward - step.extra

    assert waiting(2.0) == pytest.approx(waiting(1.0) / 2)
    # All that hides takes no time, as long as it is shorter than what hides it.
    step = simulated.simulate(TOY, strategy, 64, replace(CLUSTER, between=1e15), share=1e-6)
    assert step.communication_share(hidden=True) <= (1e-3 if strategy == "zero2" else 1e-9)


def test_dividing_the_weights_sends_half_as_much_again() -> None:
    still = replace(CLUSTER, inside_latency=0.0, between_latency=0.0)
    ddp, zero2, fsdp2 = (
        simulated.simulate(TOY, strategy, 64, still, share=0.5)
        for strategy in ("ddp", "zero2", "fsdp2")
    )
    assert zero2.with_backward + zero2.after == pytest.approx(ddp.with_backward)
    assert fsdp2.with_forward + fsdp2.with_backward == pytest.approx(1.5 * ddp.with_backward)


def test_what_compression_sends() -> None:
    sent, flop = simulated.compressed([(100, 50), (10, 9), (7,)], rank=3)
    # (10, 9) as two thin matrices would be more than half of itself; vectors go whole.
    assert sent == 3 * (100 + 50) + 90 + 7
    assert flop == 6 * 100 * 50 * 3 + 2 * 100 * 9


def test_a_models_arithmetic_is_counted_from_its_real_shapes() -> None:
    config = DalleConfig(text_vocab=16384, image_vocab=8192, depth=2, width=256, heads=4)
    model = simulated.measure("x", config, sequences=1, rank=8)
    blocks = 6 * 12 * 2 * 256**2 * 1280
    heads = 6 * 256 * (256 * 16385 + 1024 * 8192)
    attention = 12 * 2 * 256 * 1280 * 640.5
    assert model.flop == pytest.approx(blocks + heads + attention)
    assert model.parameters == sum(p.numel() for p in Dalle(config).parameters())
