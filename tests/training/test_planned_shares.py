"""What each of two processes holds is what is planned for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dalle.cli.plan import DALLE_PLANS
from dalle.cli.plan_task import planned
from dalle.training.ema import DividedEma, Ema
from dalle.training.launch import close_world, open_world
from dalle.training.memory import StepMemory, size_of
from dalle.training.plan import Setting, held
from dalle.training.settings import TrainConfig
from dalle.training.update import build_updater
from tests.training.toy_group import Group

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]


def hold(strategy: str, out: str) -> int:
    """Do two updates; write down the bytes of this process in between."""
    what = planned(DALLE_PLANS["tiny"])
    config = TrainConfig(steps=2, batch_size=2, device="cpu", precision="float32")
    world, module = open_world(config), what.task.build()
    ema: Any = None if world.divides_weights else Ema(module, decay=0.9)
    updater: Any = build_updater(world, module, config, state=None)
    if world.divides_weights:
        ema = DividedEma(module, updater.shards, decay=0.9)
    found: dict[str, int] = {}
    for step in range(2):
        loss = what.task.loss(updater.model, what.sample, step=step, counts=what.sample.counts)
        updater.backward(loss.total, last=True)
        found["gradients"] = storages(gradients(updater, strategy))
        updater.apply(lr=1e-3)
    found["weights"] = storages(weights(updater, module, strategy))
    found["moments"] = storages(moments(updater))
    averages = ema.module.parameters() if isinstance(ema, Ema) else ema._averages.values()
    found["averages"] = storages(list(averages))
    if world.is_main:
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    world.barrier()
    close_world(world)
    return 0


def weights(updater: Any, module: torch.nn.Module, strategy: str) -> list[Tensor]:
    if not strategy.startswith("zero"):
        return list(module.parameters())
    optimizer = updater._engine.optimizer
    if strategy == "zero3":
        return [optimizer.lp_param_buffer, *optimizer.fp32_partitioned_groups_flat]
    return [*module.parameters(), *optimizer.single_partition_of_fp32_groups]


def gradients(updater: Any, strategy: str) -> list[Tensor]:
    if strategy == "zero3":
        return [updater._engine.optimizer.grad_partitions_flat_buffer]
    if strategy == "zero2":
        kept = updater._engine.optimizer.averaged_gradients.values()
        return [tensor for group in kept for tensor in group]
    return [p.grad for p in updater._parameters]


def moments(updater: Any) -> list[Tensor]:
    inner = getattr(updater, "_optimizer", None) or updater._engine.optimizer.optimizer
    return [t for state in inner.state.values() for t in state.values() if t.ndim]


def storages(tensors: list[Tensor]) -> int:
    """Bytes, each storage once."""
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in local}.values())


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_a_process_holds_its_planned_share(tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "held.json"
    group = Group(hold, strategy, str(out), log=tmp_path / "log", strategy=strategy)
    assert set(group.wait()) == {0}, group.said
    found = json.loads(out.read_text("utf-8"))
    step = StepMemory(saved=0, work=0, with_gradients=0)
    setting = Setting(strategy=strategy, gpus=2, micro_batches=1, averages=True)
    size = size_of(planned(DALLE_PLANS["tiny"]).task)
    plan = held(size, step, setting)
    if strategy == "zero2":  # keeps the parameter whole that lies on the border of two parts
        assert 0 <= found.pop("gradients") - plan.gradients < size.largest
    for name, bytes_held in found.items():
        assert getattr(plan, name) == pytest.approx(bytes_held, rel=0.03), name
