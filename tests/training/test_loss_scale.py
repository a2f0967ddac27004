"""float16: the loss scale does the same under every strategy, and goes on with the run."""

import json
from pathlib import Path

import pytest
import torch

from dalle import checkpoint
from dalle.errors import NonFiniteError
from dalle.training.loss_scale import LossScale, check_scale
from tests.training.compare import assert_close, assert_same
from tests.training.toy_group import finish_together, kill_after

SHORT = {"steps": 14, "save_every": 5, "validate_every": 0, "precision": "float16"}
OVERFLOWS = (3, 7)


def test_the_scale_is_that_of_gradscaler() -> None:
    ours = LossScale()
    theirs = torch.amp.GradScaler("cpu", init_scale=ours.scale)
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    state = {**ours.state_dict(), "_growth_tracker": 1997}  # three before it is raised
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    for finite in (True, True, True, False, True, False, False):
        theirs.scale(parameter.sum() * (1.0 if finite else torch.inf)).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(finite=finite)
        assert ours.state_dict() == theirs.state_dict()
    assert ours.scale == 2.0**14


def test_a_scale_that_only_falls_is_told() -> None:
    check_scale(2.0**-10)
    with pytest.raises(NonFiniteError, match="overflows at every loss scale; use bfloat16"):
        check_scale(2.0**-11)


@pytest.fixture(scope="module")
def under_ddp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _overflow_on_one(tmp_path_factory.mktemp("ddp") / "run", "ddp")


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "fsdp2"])
def test_an_overflow_on_one_process_lowers_the_scale_of_all(
    tmp_path: Path, under_ddp: Path, strategy: str
) -> None:
    out = _overflow_on_one(tmp_path / "run", strategy)
    # The gradients of the toy overflow at the first two scales besides.
    expected = {"scale": 2.0**12, "_growth_tracker": 6}
    assert _scale(out) == _scale(under_ddp) == expected
    assert_close(out, under_ddp, rel=1e-5)


def _overflow_on_one(out: Path, strategy: str) -> Path:
    task = {"poison_at": OVERFLOWS, "poison_rank": 1}
    finish_together(out, strategy=strategy, task=task, **SHORT)
    return out


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["zero2", "fsdp2"])
def test_a_run_in_float16_goes_on_bit_for_bit(tmp_path: Path, strategy: str) -> None:
    options = {**SHORT, "strategy": strategy}
    finish_together(tmp_path / "unbroken", **options)
    kill_after(8, tmp_path / "run", **options)
    finish_together(tmp_path / "run", **options)
    assert_same(tmp_path / "run", tmp_path / "unbroken")


def _scale(out: Path) -> dict[str, float]:
    state = json.loads((checkpoint.latest_whole(out) / "training" / "scaler.json").read_text())
    return {name: state[name] for name in ("scale", "_growth_tracker")}
