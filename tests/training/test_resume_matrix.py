"""All of resuming: every strategy, cut everywhere; every change from one strategy to another.

What takes minutes and `make proof` alone runs.
"""

from pathlib import Path
from typing import Any

import pytest

from dalle.checkpoint import steps
from tests.training.compare import assert_close, assert_same
from tests.training.toy_group import ENVIRONMENTS, finish_together, kill_after

pytestmark = [pytest.mark.proof, pytest.mark.distributed, pytest.mark.timeout(900)]

RUN: dict[str, Any] = {
    "batch_size": 12,
    "steps": 16,
    "save_every": 4,
    "validate_every": 6,
    "preview_every": 6,
}
TOGETHER = [strategy for strategy in ENVIRONMENTS if strategy != "single"]
WORLDS = [("single", 1), *((strategy, size) for strategy in TOGETHER for size in (2, 3))]
CUTS = (4, 5, 11, 15)
"""At a save, after one, between two, before the last step; an epoch is three steps and a part."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """One process with six micro-batches, whose noise is that of all that is compared with it."""
    finish_together(folder / "alone", strategy="single", size=1, micro_batches=6, **RUN)
    return folder / "alone"


@pytest.mark.parametrize("ema_decay", [0.9, None])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("strategy", TOGETHER)
def test_wherever_it_is_cut_it_goes_on_bit_for_bit(
    tmp_path: Path, strategy: str, size: int, precision: str, ema_decay: float | None
) -> None:
    options = {**RUN, "strategy": strategy, "size": size, "micro_batches": 2}
    options |= {"precision": precision, "ema_decay": ema_decay}
    finish_together(tmp_path / "unbroken", **options)
    for cut in CUTS:
        out = tmp_path / f"cut-{cut}"
        kill_after(cut, out, **options)
        finish_together(out, **options)
        assert_same(out, tmp_path / "unbroken")


@pytest.mark.parametrize(("strategy", "size"), WORLDS)
def test_it_goes_on_under_any_other(tmp_path: Path, alone: Path, strategy: str, size: int) -> None:
    for number, (then, before) in enumerate(WORLDS):
        out = tmp_path / str(number)
        kill_after(6, out, strategy=then, size=before, micro_batches=6 // before, **RUN)
        finish_together(out, strategy=strategy, size=size, micro_batches=6 // size, **RUN)
        assert steps.read_run(steps.list_steps(out)[-1])["world"] == size
        assert_close(out, alone)
