"""PowerSGD under DDP: what it changes, what it keeps for a resume, what it refuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dalle import checkpoint
from dalle.checkpoint import steps
from dalle.errors import CheckpointError
from dalle.training.compression import PowerSgd
from dalle.training.launch import open_world
from dalle.training.optim import OptimConfig
from dalle.training.schedules import WarmupCosine
from dalle.training.settings import TrainConfig
from tests.training.toy_group import ToyGroup, finish_together, kill_after
from tests.training.toy_process import curve

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

RUN = {"steps": 14, "save_every": 5, "validate_every": 0, "batch_size": 12, "strategy": "ddp"}
WARMUP = 3
"""The toy's: its first gradients travel whole."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish_together(out, powersgd_rank=1, **RUN)
    return out


def kept(out: Path) -> dict[str, Tensor]:
    """All that the last checkpoint holds; what each process keeps for itself by its file."""
    found = {}
    for path in checkpoint.latest_whole(out).rglob("*.safetensors"):
        prefix = path.name if path.name.startswith("compression") else path.stem.split("-")[0]
        found |= {f"{prefix}/{name}": tensor for name, tensor in load_file(path).items()}
    return found


def test_gradients_are_whole_during_the_warm_up_and_products_after_it(
    tmp_path: Path, unbroken: Path
) -> None:
    finish_together(tmp_path / "whole", **RUN)
    whole, compressed = curve(tmp_path / "whole"), curve(unbroken)
    assert compressed[:WARMUP] == whole[:WARMUP]
    assert all(
        one["grad_norm"] != other["grad_norm"]
        for one, other in zip(compressed[WARMUP:-1], whole[WARMUP:-1], strict=True)
    )
    # What was left out of one step is made up for by the next: the way is nearly the same.
    assert [line["loss"] for line in compressed if "loss" in line] == pytest.approx(
        [line["loss"] for line in whole if "loss" in line], rel=0.1
    )


def test_a_run_goes_on_bit_for_bit(tmp_path: Path, unbroken: Path) -> None:
    out = tmp_path / "run"
    kill_after(8, out, powersgd_rank=1, **RUN)
    assert "going on from step 5" in finish_together(out, powersgd_rank=1, **RUN)
    assert curve(out) == curve(unbroken)
    expected, found = kept(unbroken), kept(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    mine, others = (f"compression-0000{n}-of-00002.safetensors/error/0" for n in (1, 2))
    assert found[mine].any() and not torch.equal(found[mine], found[others])


@pytest.mark.parametrize("size", [1, 3])
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, unbroken: Path, size: int
) -> None:
    out = tmp_path / "run"
    kill_after(8, out, powersgd_rank=1, **RUN)
    finish_together(out, powersgd_rank=1, **(RUN | {"size": size}))
    assert steps.read_run(steps.list_steps(out)[-1])["world"] == size
    found, expected = curve(out)[-2]["loss"], curve(unbroken)[-2]["loss"]
    assert found == pytest.approx(expected, rel=0.1)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[PowerSgd]:
    """The hook on a model of one process, after some updates."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    schedule = WarmupCosine(warmup=2, final=0.1)
    config = TrainConfig(
        steps=9, batch_size=4, device="cpu", powersgd_rank=1, optim=OptimConfig(schedule=schedule)
    )
    try:
        yield _after_some_updates(config)
    finally:
        dist.destroy_process_group()


def _after_some_updates(config: TrainConfig) -> PowerSgd:
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(12, 10), find_unused_parameters=True)
    hook = PowerSgd(model, open_world(config), config)
    for _ in range(5):
        model.zero_grad()
        model(torch.randn(8, 12)).square().mean().backward()
    return hook


def test_what_is_sent_is_smaller(alone: PowerSgd) -> None:
    """Twelve times ten numbers as twelve and ten; the bias is too small for it."""
    ratio, before, after = alone.state.compression_stats()
    assert (before, after) == (3 * (12 * 10 + 10), 3 * (12 + 10 + 10))
    assert ratio == before / after


def test_another_number_of_processes_shares_what_was_left_over(
    tmp_path: Path, alone: PowerSgd
) -> None:
    """The sum over processes of gradient and rest is the same, so is its mean."""
    rest = alone.state.error_dict[0].clone()
    alone.take_state()(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    saved = load_file(path)
    path.unlink()
    for number in (1, 2, 3):
        share = saved | {"error/0": number * rest}
        save_file(share, tmp_path / f"compression-0000{number}-of-00003.safetensors")
    alone.forget()
    assert not alone.state.error_dict and not alone.state.q_memory_dict
    alone.load(tmp_path)
    torch.testing.assert_close(alone.state.error_dict[0], 2 * rest)
    assert torch.equal(alone.state.q_memory_dict[0], saved["q/0"])
    assert alone.state.iter == 5


@pytest.mark.parametrize("change", ["pickle", "name", "bucket", "missing"])
def test_files_that_are_no_state_of_it_are_refused(
    tmp_path: Path, alone: PowerSgd, change: str
) -> None:
    alone.take_state()(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    saved = {name: tensor.clone() for name, tensor in load_file(path).items()}
    if change == "pickle":
        torch.save(saved, path)
    elif change == "missing":  # from one of two
        path.unlink()
        save_file(saved, tmp_path / "compression-00001-of-00002.safetensors")
        save_file(
            {"updates": saved["updates"]}, tmp_path / "compression-00002-of-00002.safetensors"
        )
    else:
        save_file(saved | {"other/0" if change == "name" else "q/x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"compression-.*safetensors"):
        alone.load(tmp_path)


def test_other_strategies_and_float16_are_refused(tmp_path: Path) -> None:
    group = ToyGroup(tmp_path / "run", strategy="fsdp2", powersgd_rank=1)
    assert group.wait() == [2, 2]
    assert "powersgd_rank is 1, but fsdp2 is in force; only DDP's" in group.said
    group = ToyGroup(tmp_path / "half", strategy="ddp", powersgd_rank=1, precision="float16")
    assert group.wait() == [2, 2]
    assert "powersgd_rank goes with bfloat16 or float32" in group.said
