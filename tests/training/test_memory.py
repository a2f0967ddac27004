"""What is counted on tensors without numbers is what a step on the CPU really keeps."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from dalle.cli.plan import CLIP_PLANS, DALLE_PLANS, VAE_PLANS, PlanDalle
from dalle.cli.plan_task import Planned, planned
from dalle.protocols import Batch, Loss
from dalle.storages import saved_bytes
from dalle.training.ema import Ema
from dalle.training.launch import close_world, open_world
from dalle.training.memory import StepMemory, count_flop, measure_step, size_of
from dalle.training.plan import Setting, held
from dalle.training.settings import TrainConfig
from dalle.training.update import build_updater
from tests.toys import ToyTask

PLANS = {"vae": VAE_PLANS, "clip": CLIP_PLANS, "dalle": DALLE_PLANS}
CASES = [
    (kind, precision, recompute)
    for kind in PLANS
    for precision in ("float32", "bfloat16")
    for recompute in ((False, True) if kind == "dalle" else (False,))
]


def several(sample: Batch, samples: int) -> Batch:
    tensors = {
        k: torch.cat([torch.rand_like(v) if v.is_floating_point() else v] * samples)
        for k, v in sample.tensors.items()
    }
    return Batch(tensors=tensors, counts={k: v * samples for k, v in sample.counts.items()})


class Step:
    """A real step, with what it holds."""

    def __init__(self, what: Planned, *, samples: int, precision: str, recompute: bool) -> None:
        config = TrainConfig(
            steps=2, batch_size=samples, device="cpu", precision=precision, recompute=recompute
        )
        torch.manual_seed(0)
        world, module = open_world(config), what.task.build()
        ema = Ema(module, decay=0.9)
        updater = build_updater(world, module, config, state=None)
        batch = several(what.sample, samples)
        for step in range(2):  # the second one finds the optimizer's state
            with saved_bytes(module) as saved:
                loss = what.task.loss(updater.model, batch, step=step, counts=batch.counts).total
            self.saved = saved()
            updater.backward(loss, last=True)
            self.gradients = sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)
            updater.apply(lr=1e-3)
        self.weights = sum(p.nbytes for p in module.parameters())
        self.averages = sum(p.nbytes for p in ema.module.parameters())
        states = updater._optimizer.state.values()
        self.moments = sum(t.nbytes for state in states for t in state.values() if t.ndim)
        close_world(world)


def test_short_copies_of_weights_go_with_their_layer() -> None:
    """Where layers are computed again, a further one costs what is kept of it, and no more."""
    few, many = (
        measure_step(
            (what := planned(_of_depth(depth))).task,
            what.sample,
            samples=1,
            on="cpu",
            precision="bfloat16",
            recompute=True,
        )
        for depth in (2, 4)
    )
    assert many.work - few.work == many.saved - few.saved


def test_training_keeps_no_short_copies() -> None:
    torch.manual_seed(0)
    world = open_world(TrainConfig(steps=1, batch_size=1, device="cpu", precision="bfloat16"))
    assert not torch.is_autocast_cache_enabled()
    close_world(world)
    assert torch.is_autocast_cache_enabled()


def _of_depth(depth: int) -> PlanDalle:
    tiny = DALLE_PLANS["tiny"]
    model = dataclasses.replace(tiny.run.model, depth=depth)
    return dataclasses.replace(tiny, run=dataclasses.replace(tiny.run, model=model))


@pytest.mark.parametrize(("kind", "precision", "recompute"), CASES)
def test_what_is_planned_is_what_a_step_holds(kind: str, precision: str, recompute: bool) -> None:
    what = planned(PLANS[kind]["tiny"])
    size = size_of(what.task)
    step = measure_step(
        what.task, what.sample, samples=3, on="cpu", precision=precision, recompute=recompute
    )
    setting = Setting(strategy="single", gpus=1, micro_batches=1, averages=True)
    plan = held(size, step, setting)
    real = Step(what, samples=3, precision=precision, recompute=recompute)
    exact = (plan.weights, plan.gradients, plan.averages)
    assert exact == (real.weights, real.gradients, real.averages)
    assert plan.moments == pytest.approx(real.moments, rel=0.001)
    assert plan.saved == pytest.approx(real.saved, rel=0.02)


class Stack(nn.Module):
    """Layers whose memory can be told by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class StackTask(ToyTask):
    """Minimises their sum."""

    def build(self) -> nn.Module:
        return Stack()

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        return Loss(total=model(batch.tensors["x"]).sum(), metrics={})


def stack_step() -> StepMemory:
    sample = Batch(tensors={"x": torch.zeros(1, 64)}, counts={"x": 1.0})
    how = {"samples": 100, "on": "cpu", "precision": "float32", "recompute": False}
    return measure_step(StackTask(), sample, **how)


def test_a_stack_by_hand() -> None:
    x, matrix = 100 * 64 * 4, 64 * 64 * 4
    step = stack_step()
    assert step.saved == 4 * x  # what goes in, and what comes out of each tanh
    # Then the gradient of the sum is spread, and of the last layer's tanh, before that is let go.
    assert step.work == pytest.approx(3 * x + 2 * x, abs=2 * x)
    assert step.work < step.with_gradients <= step.work + 3 * matrix


def test_the_toy_takes_the_flop_that_are_counted_by_hand() -> None:
    """0.120 TFLOP: 6 layers of width 384 over 256 + 1024 slots, vocabularies 16,384 and 8,192."""
    plan = DALLE_PLANS["base"]
    model = dataclasses.replace(plan.run.model, depth=6, width=384, heads=6)
    what = planned(PlanDalle(run=dataclasses.replace(plan.run, model=model)))
    assert count_flop(what.task, what.sample) == pytest.approx(0.120e12, rel=0.005)


def test_convolutions_are_counted() -> None:
    """The least that the tiny discrete VAE does: its first layer, 7 x 7 from 3 to 8 channels."""
    vae = planned(VAE_PLANS["tiny"])
    first = 2 * 32 * 32 * 3 * 8 * 49
    assert 2 * first < count_flop(vae.task, vae.sample) < 100 * first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recompute", [False, True])
def test_the_peak_on_a_gpu_is_the_planned_one(recompute: bool) -> None:
    plan = DALLE_PLANS["small"]
    what = planned(dataclasses.replace(plan, run=dataclasses.replace(plan.run, vae=None)))
    samples, precision = 8, "bfloat16"
    step = measure_step(
        what.task,
        what.sample,
        samples=samples,
        on="gpu",
        precision=precision,
        recompute=recompute,
    )
    setting = Setting(strategy="single", gpus=1, micro_batches=1, averages=False)
    planned_peak = held(size_of(what.task), step, setting).peak
    config = TrainConfig(
        steps=3, batch_size=samples, device="cuda", precision=precision, recompute=recompute
    )
    world, module = open_world(config), what.task.build()
    module.to(world.device)
    updater = build_updater(world, module, config, state=None)
    batch = several(what.sample, samples)
    tensors = {name: tensor.to(world.device) for name, tensor in batch.tensors.items()}
    batch = Batch(tensors=tensors, counts=batch.counts)
    for number in range(3):
        if number == 2:  # with the optimizer's state, and what libraries keep for good
            torch.cuda.reset_peak_memory_stats()
        loss = what.task.loss(updater.model, batch, step=number, counts=batch.counts).total
        updater.backward(loss, last=True)
        del loss
        updater.apply(lr=1e-4)
    peak = torch.cuda.max_memory_allocated()
    close_world(world)
    assert planned_peak == pytest.approx(peak, rel=0.1)
