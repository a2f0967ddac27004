"""Held-out data looked at by several processes: what fails on one ends all, what is slow keeps all
waiting, and nobody hangs."""

import os
import time
from pathlib import Path

import pytest

from dalle.config import from_json
from dalle.errors import DalleError, DataError
from dalle.training import steps, watch
from dalle.training.loop import TrainConfig, train
from tests.toys import ToyConfig, ToySource, ToyTask
from tests.training.toy_group import Group
from tests.training.train_toy import DEFAULTS

pytestmark = pytest.mark.distributed


def look(fault: str, at: str, rank: str, out: str) -> int:
    """One of two processes, of which one has a fault when it looks at held-out data."""
    steps.STEP_SECONDS, watch.BEAT_SECONDS = 3.0, 0.1
    looked = False

    def on_look(what: str) -> None:
        nonlocal looked
        if what == at and os.environ["RANK"] == rank and not looked:
            looked = True
            if fault == "slow":
                time.sleep(4)
            if fault == "refused":
                raise DataError("unreadable")
            if fault == "broken":
                raise ValueError("a bug")

    task = ToyTask(config=ToyConfig(depth=1), on_look=on_look)
    config = DEFAULTS | {"steps": 4, "validate_every": 2, "preview_every": 2}
    try:
        train(
            task,
            from_json(TrainConfig, config),
            train_source=ToySource(),
            held_out_source=ToySource(size=7),
            out=out,
        )
    except DalleError as error:
        print(f"{type(error).__name__}: {error}")
        return error.exit_status
    return 0


@pytest.mark.parametrize(
    ("strategy", "fault", "at", "rank", "expected"),
    [
        ("zero3", "refused", "preview", 0, [8, 8]),
        ("fsdp2", "broken", "preview", 0, [1, 9]),
        ("fsdp2", "refused", "validate", 0, [8, 8]),
        ("ddp", "refused", "validate", 1, [8, 8]),
        ("zero3", "slow", "preview", 0, [0, 0]),
    ],
)
def test_all_wait_for_what_is_slow_and_end_with_what_fails(
    tmp_path: Path, strategy: str, fault: str, at: str, rank: int, expected: list[int]
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    group = Group(look, fault, at, str(rank), str(out), log=log, strategy=strategy)
    assert group.wait() == expected, group.said
    previews = sorted(path.name for path in out.glob("previews/*") if any(path.iterdir()))
    assert previews == (["step-00000002", "step-00000004"] if fault == "slow" else [])
    if fault != "slow":
        sentence = {"refused": "DataError: process {}: unreadable", "broken": "ValueError: a bug"}
        assert sentence[fault].format(rank) in group.said
