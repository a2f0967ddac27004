"""`dalle plan`: what it says, and that it says it of the run that would be trained."""

import json
import re
from pathlib import Path

import pytest

from dalle.cli import main
from dalle.cli.plan import DALLE_PLANS
from dalle.cli.plan_task import planned
from dalle.training.memory import measure_step, size_of
from dalle.training.plan import Setting, days, held

GIB = 2**30


def plan(out: Path, *words: str) -> dict:
    assert main(["plan", *words, "--json", str(out / "plan.json")]) == 0
    return json.loads((out / "plan.json").read_text("utf-8"))


@pytest.mark.parametrize(
    "kind", ["dalle", *(pytest.param(kind, marks=pytest.mark.proof) for kind in ("vae", "clip"))]
)
def test_every_strategy_has_a_row(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(tmp_path, kind, "--preset", "tiny", "--gpus", "1", "2", "--tflops", "2")
    one, two = found["tables"]
    assert [row["strategy"] for row in one["rows"]] == ["single"]
    names = ["ddp", "zero1", "zero2", "zero2-offload", "zero3", "zero3-offload"]
    assert [row["strategy"] for row in two["rows"]] == [*names, "fsdp2", "fsdp2-offload"]
    assert (one["micro_batch"], two["micro_batch"]) in ((4, 2), (8, 4))
    assert two["per_second"] == 2 * one["per_second"]
    said = capsys.readouterr().out
    assert all(re.search(rf"^{name} .* yes$", said, re.MULTILINE) for name in names)


def test_flags_are_those_of_the_run(tmp_path: Path) -> None:
    words = ("dalle", "--preset", "tiny", "--gpus", "1", "--device", "cpu")
    plain = plan(tmp_path, *words)
    assert (plain["on"], plain["precision"]) == ("cpu", "float32")
    deep = plan(tmp_path, *words, "--depth", "4", "--recompute", "--ema-decay", "0.9")
    row, deeper = (found["tables"][0]["rows"][0] for found in (plain, deep))
    assert deep["parameters"] > plain["parameters"]
    assert row["averages"] == 0 and deeper["averages"] == deeper["weights"]
    assert deeper["saved"] < row["saved"]


def test_both_orders_need_a_mask_for_each_sample(tmp_path: Path) -> None:
    words = ("dalle", "--preset", "tiny", "--gpus", "1")
    plain, both = (
        plan(tmp_path, *words, *more)["tables"][0]["rows"][0]
        for more in ((), ("--caption-order", "0.3"))
    )
    assert both["saved"] > plain["saved"]
    assert both["weights"] - plain["weights"] == 2 * 16 * 4  # the two marks


def test_more_micro_batches_make_it_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("dalle", "--preset", "demo", "--gpus", "1", "--batch-size", "64")
    row = plan(tmp_path, *words)["tables"][0]["rows"][0]
    memory = str(0.5 * row["peak"] / GIB)
    tight = plan(tmp_path, *words, "--gpu-gib", memory)["tables"][0]["rows"][0]
    most = tight["largest_micro_batch"]
    assert not tight["fits"] and 1 <= most < 64
    advised = re.search(
        rf"with --micro-batches (\d+) times as many \({most} at", capsys.readouterr().out
    )
    assert advised and 64 % int(advised[1]) == 0 and 64 // int(advised[1]) <= most
    less = plan(tmp_path, *words, "--gpu-gib", memory, "--micro-batches", advised[1])
    assert less["tables"][0]["rows"][0]["fits"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "3"), "make it a multiple of 3"),
        (("--gpus", "0"), "expected numbers of 1 or more"),
        (("--tflops", "0"), "expected a number above 0"),
    ],
)
def test_what_cannot_be_is_said(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "dalle", "--preset", "tiny", *words]) == 2
    assert said in capsys.readouterr().err


def test_days_by_hand() -> None:
    assert days(1e12, samples=86_400 * 8 * 10, gpus=8, tflops=10.0) == pytest.approx(1.0)


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_the_published_size_needs_its_weights_divided() -> None:
    """12 billion parameters in 80 GiB: on no single GPU, and not whole on each of 1024."""
    what = planned(DALLE_PLANS["paper"])
    size = size_of(what.task)
    assert size.parameters == 12_292_840_961
    how = {"samples": 1, "on": "gpu", "precision": "bfloat16"}
    step = measure_step(what.task, what.sample, recompute=True, **how)
    peaks = {}
    for strategy, gpus in (("single", 1), ("ddp", 1024), ("zero2", 1024), ("fsdp2", 64)):
        setting = Setting(strategy=strategy, gpus=gpus, micro_batches=1, averages=True)
        peaks[strategy] = held(size, step, setting).peak
    assert min(peaks["single"], peaks["ddp"], peaks["zero2"]) > 80 * GIB > peaks["fsdp2"]
    assert peaks["single"] > 5 * size.whole  # weights, two moments, averages, gradients
    # No short copy of a layer's weights outlives the layer.
    assert step.work < 4 * size.layer
    # A layer keeps its input, in float32: 64 of 1280 x 3968.
    assert step.saved > 64 * 1280 * 3968 * 4
