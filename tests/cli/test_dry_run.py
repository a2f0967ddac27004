"""`dalle train ... --dry-run`: the worst step for real, its memory, and no trace of it."""

import os
import re
from pathlib import Path

import pytest

from dalle.cli import dry_run, main
from dalle.cli.plan import DALLE_PLANS
from dalle.cli.plan_task import planned
from dalle.training import rehearsal
from dalle.training.rehearsal import largest_that_fits
from tests.training.toy_group import Group

MIB = 2**20
LIBRARIES = 64
"""MiB that the first step of a process needs whatever its size."""


def rehearsed_in(folder: str, words: list[str]) -> int:
    """The command, in a folder where a stray file would be seen."""
    os.chdir(folder)
    rehearsal.TRIAL_SECONDS = 0.0
    return main(["train", *words, "--preset", "tiny", "--dry-run", "--device", "cpu"])


def number(pattern: str, said: str) -> float:
    found = re.search(pattern, said)
    assert found, said
    return float(found[1].replace(",", ""))


@pytest.mark.parametrize(
    "words",
    [
        ["vae", "--batch-size", "64"],
        pytest.param(["clip", "--batch-size", "256"], marks=pytest.mark.proof),
        ["dalle", "--batch-size", "512", "--precision", "bfloat16", "--views", "1"],
    ],
    ids=lambda words: words[0],
)
def test_what_a_step_holds_is_what_is_planned_and_leaves_no_trace(
    words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    group = Group(
        rehearsed_in, str(tmp_path / "here"), words, log=tmp_path / "log", strategy="single", size=1
    )
    assert group.wait() == [0], group.said
    held = number(r"peak memory: ([\d,]+) MiB", group.said)
    counted = number(r"`dalle plan` counts ([\d,]+) MiB", group.said)
    # Resident memory has what kernels and the C library need besides tensors.
    assert counted < held < 2 * counted + LIBRARIES
    assert number(r"([\d,]+) (?:tokens|pictures|pairs) a second", group.said) > 0
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.distributed
@pytest.mark.parametrize(
    "strategy", ["ddp", *(pytest.param(s, marks=pytest.mark.proof) for s in ("zero2", "fsdp2"))]
)
def test_two_processes_rehearse_together(strategy: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    words = ["dalle", "--batch-size", "64", "--micro-batches", "2"]
    group = Group(
        rehearsed_in, str(tmp_path / "here"), words, log=tmp_path / "log", strategy=strategy
    )
    assert set(group.wait()) == {0}, group.said
    assert f"2 x cpu, {strategy}, float32, 64 samples a step in micro-batches of 16" in group.said
    assert group.said.count("peak memory of a process") == 1
    assert "not tried" in group.said and not list((tmp_path / "here").iterdir())


def test_the_largest_micro_batch_follows_from_what_is_free(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "dalle", "--preset", "tiny", "--dry-run", "--device", "cpu", "--views", "1"]
    monkeypatch.setattr(dry_run, "keep_freed_memory", lambda: None)  # which would last
    largest = []
    for free in (400, 1200):
        monkeypatch.setattr(rehearsal, "free_bytes", lambda device, free=free: free * MIB)
        monkeypatch.setattr(rehearsal, "TRIAL_SECONDS", 100.0 if free == 400 else 0.0)
        assert main(words) == 0
        said = capsys.readouterr().out
        assert f"; {free:,} MiB were free" in said
        assert ("(tried)" in said) == (free == 400)
        largest.append(number(r"that fits: ([\d,]+) samples", said))
    assert 2 * largest[0] < largest[1]


@pytest.mark.parametrize("limit", [4, 5, 63, 64, 1000])
def test_the_search_ends_within_a_16th_below_the_limit(limit: int) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    found = largest_that_fits(fits, 4)
    assert limit - max(1, limit // 16) <= found <= limit
    assert len(asked) < 20


def test_the_worst_caption_fills_its_slots() -> None:
    what = planned(DALLE_PLANS["tiny"])
    text = what.arrays["text"]
    assert what.sample.counts["text"] == text.shape[1] - 1
