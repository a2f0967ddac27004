"""Batches are a function of seed and step: for every number of ranks, parts and workers."""

import itertools
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dalle.data import workers
from dalle.data.loader import Loader, fixed_batches
from dalle.data.order import permutation, sample_at, substitute
from dalle.errors import ConfigError, DataError, InputError
from dalle.protocols import Sample

PICTURE = Image.new("RGB", (2, 2))
ORDER_0_0, ORDER_0_1 = [0, 7, 8, 2, 5, 9, 4, 6, 3, 1], 9
ORDER_7_3 = [2, 3, 1, 6, 9, 5, 7, 8, 0, 4]
SUBSTITUTE, NOISE = 189, 0.5013997148167615


class Numbered:
    """Samples whose key is their number; the damaged ones cannot be read."""

    def __init__(self, size: int, *, damaged: set[int] | None = None) -> None:
        self.size = size
        self.damaged = damaged or set()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Sample:
        if index in self.damaged:
            raise DataError(f"number {index} is damaged")
        return Sample(key=str(index), image=PICTURE, captions=())


def read(sample: Sample, random: Random) -> Mapping[str, np.ndarray] | None:
    return {"index": np.array(int(sample.key)), "noise": np.array([random.random()] * 3)}


def steps(loader: Loader, count: int) -> list[list[dict[str, Tensor]]]:
    return list(itertools.islice(loader, count))


def indices(loader: Loader, count: int) -> list[list[int]]:
    return [[i for p in step for i in p["index"].tolist()] for step in steps(loader, count)]


def flat(batches: list[list[dict[str, Tensor]]]) -> Tensor:
    """Everything that was read, in order."""
    rows = [torch.cat([p["index"][:, None].double(), p["noise"]], 1) for b in batches for p in b]
    return torch.cat(rows)


def test_an_epoch_is_every_sample_once_in_another_order() -> None:
    for size in (1, 2, 7, 1000):
        orders = [permutation(3, epoch, size).tolist() for epoch in range(4)]
        assert all(sorted(order) == list(range(size)) for order in orders)
    assert len({tuple(permutation(0, epoch, 100)) for epoch in range(20)}) == 20
    assert len({tuple(permutation(seed, 0, 100)) for seed in range(20)}) == 20
    # Neighbouring seeds and epochs must not be shifted copies of one another.
    assert (permutation(1, 0, 1000) == permutation(0, 1, 1000)).mean() < 0.02


def test_the_order_is_uniform() -> None:
    firsts = np.array([permutation(seed, 0, 5) for seed in range(3000)])
    counts = np.stack([(firsts == value).sum(0) for value in range(5)])
    assert np.abs(counts - 600).max() < 110  # five standard deviations


def test_the_order_stays_what_it_is() -> None:
    # A run that resumes after an upgrade goes on in its order.
    assert permutation(0, 0, 10).tolist() == ORDER_0_0
    assert permutation(7, 3, 10).tolist() == ORDER_7_3
    assert substitute(7, 3, 5, attempt=1, size=1000) == SUBSTITUTE
    assert [sample_at(p, seed=0, size=10) for p in (9, 10)] == [(0, ORDER_0_0[9]), (1, ORDER_0_1)]
    (batch,) = next(iter(Loader(Numbered(10), read, batch_size=1, seed=0)))
    assert batch["noise"][0, 0].item() == NOISE


def test_steps_go_through_the_epochs() -> None:
    seen = indices(Loader(Numbered(10), read, batch_size=4, seed=5), 5)
    order = [i for epoch in range(2) for i in permutation(5, epoch, 10).tolist()]
    assert [i for step in seen for i in step] == order


@pytest.mark.parametrize("size", [1, 3, 8, 9, 100])
def test_ranks_and_parts_share_one_batch(size: int) -> None:
    whole = flat(steps(Loader(Numbered(size), read, batch_size=12, seed=1), 3))
    for world, micro in ((1, 3), (2, 1), (2, 3), (4, 1), (12, 1)):
        shares = [
            steps(
                Loader(
                    Numbered(size),
                    read,
                    batch_size=12,
                    seed=1,
                    rank=rank,
                    world=world,
                    micro_batches=micro,
                ),
                3,
            )
            for rank in range(world)
        ]
        assert all(len(step) == micro for share in shares for step in share)
        together = [part for parts in zip(*shares, strict=True) for rank in parts for part in rank]
        assert torch.equal(flat([together]), whole)


def test_a_resumed_run_reads_what_it_would_have_read() -> None:
    source = Numbered(50, damaged={3, 9})
    whole = steps(Loader(source, read, batch_size=8, seed=2), 12)
    for start, micro in ((1, 1), (5, 2), (6, 4), (11, 1)):
        loader = Loader(source, read, batch_size=8, seed=2, start_step=start, micro_batches=micro)
        assert torch.equal(flat(steps(loader, 12 - start)), flat(whole[start:]))


def test_each_sample_has_its_own_noise_in_each_epoch() -> None:
    noise = flat(steps(Loader(Numbered(4), read, batch_size=4, seed=0), 10))[:, 1]
    assert len(set(noise.tolist())) == 40


def test_workers_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    source = Numbered(37, damaged={3, 9})
    state = torch.get_rng_state()
    found = []
    for num_workers in (0, 1, 4):
        loader = Loader(
            source,
            read,
            batch_size=16,
            seed=4,
            micro_batches=2,
            num_workers=num_workers,
            start_step=3,
        )
        found.append((flat(steps(loader, 8)), loader.num_bad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][0], found[2][0])
    assert {bad for _, bad in found} == {2}
    assert torch.equal(torch.get_rng_state(), state)


def test_damaged_samples_are_replaced_and_told_once(tmp_path: Path) -> None:
    file = tmp_path / "bad_samples.jsonl"
    source = Numbered(40, damaged={7, 11})
    loader = Loader(source, read, batch_size=8, seed=0, bad_samples=file)
    seen = indices(loader, 20)
    plain = indices(Loader(Numbered(40), read, batch_size=8, seed=0), 20)
    changed = 0
    for got, expected in zip(seen, plain, strict=True):
        assert len(got) == 8
        for one, other in zip(got, expected, strict=True):
            assert one not in source.damaged
            assert one == other or other in source.damaged
            changed += one != other
    assert changed == 8
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    told = {row["index"]: row for row in lines}
    assert {i: row["reason"] for i, row in told.items()} == {
        i: f"number {i} is damaged" for i in (7, 11)
    }
    assert all(row["key"] == str(i) for i, row in told.items())
    flat_seen, flat_plain = ([i for step in steps_ for i in step] for steps_ in (seen, plain))
    for index, row in told.items():
        assert row["substitute"] == flat_seen[flat_plain.index(index)]
    assert loader.bad_by_reason() == {"number ... is damaged": 2}
    assert len(lines) == loader.num_bad == 2


def test_samples_left_out_are_replaced_and_counted_apart(tmp_path: Path) -> None:
    def choosy(sample: Sample, random: Random) -> Mapping[str, np.ndarray] | None:
        return None if int(sample.key) % 2 else read(sample, random)

    file = tmp_path / "bad_samples.jsonl"
    loader = Loader(Numbered(1000), choosy, batch_size=10, seed=0, bad_samples=file)
    assert all(i % 2 == 0 for step in indices(loader, 100) for i in step)
    assert loader.num_bad == 0
    assert loader.num_left_out >= 500
    assert not file.exists()


def test_too_many_damaged_samples_end_the_run() -> None:
    loader = Loader(Numbered(1000, damaged=set(range(50))), read, batch_size=20, seed=0)
    message = (
        r"^\d+ of the \d+ samples read so far are damaged, more than 1\.00%: \d+ x number \.\.\. "
    )
    with pytest.raises(DataError, match=message):
        indices(loader, 50)
    bearing = Loader(
        Numbered(1000, damaged=set(range(50))), read, batch_size=20, seed=0, max_bad_fraction=0.1
    )
    assert len(indices(bearing, 50)) == 50
    # A few are borne in a small data set, however often they come.
    assert len(indices(Loader(Numbered(10, damaged={1, 2}), read, batch_size=5, seed=0), 99)) == 99


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_readable_ends_the_run(num_workers: int) -> None:
    loader = Loader(
        Numbered(5, damaged=set(range(5))), read, batch_size=2, seed=0, num_workers=num_workers
    )
    with pytest.raises(DataError, match=r"100 samples in a row .* is damaged"):
        next(iter(loader))
    nothing = Loader(Numbered(5), lambda *_: None, batch_size=2, seed=0, num_workers=num_workers)
    with pytest.raises(DataError, match="left out by the settings"):
        next(iter(nothing))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_refusal_ends_the_run_in_one_line(num_workers: int) -> None:
    def refuse(sample: Sample, random: Random) -> Mapping[str, np.ndarray] | None:
        raise InputError("the caption is too long")

    loader = Loader(Numbered(5), refuse, batch_size=2, seed=0, num_workers=num_workers)
    with pytest.raises(InputError, match=r"^the caption is too long$"):
        next(iter(loader))


def test_what_cannot_be_divided_is_refused() -> None:
    for world, micro in ((3, 1), (2, 3), (16, 1)):
        with pytest.raises(ConfigError, match=rf"use a multiple of {world * micro}"):
            Loader(Numbered(9), read, batch_size=8, seed=0, world=world, micro_batches=micro)
    with pytest.raises(ConfigError, match="a batch of 0"):
        Loader(Numbered(9), read, batch_size=0, seed=0)
    with pytest.raises(DataError, match="empty"):
        Loader(Numbered(0), read, batch_size=2, seed=0)


class Killing:
    """Reading `victim` ends the process; `once` names a file that says it has done so before."""

    def __init__(self, victim: str, *, once: Path | None = None) -> None:
        self.victim = victim
        self.once = once

    def __call__(self, sample: Sample, random: Random) -> Mapping[str, np.ndarray] | None:
        if sample.key == self.victim and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read(sample, random)


def test_a_dead_worker_is_replaced_at_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.5)
    killing = Killing("7", once=tmp_path / "killed")
    loader = Loader(Numbered(40), killing, batch_size=8, seed=0, num_workers=2)
    expected = steps(Loader(Numbered(40), read, batch_size=8, seed=0), 6)
    assert torch.equal(flat(steps(loader, 6)), flat(expected))
    assert (tmp_path / "killed").exists()
    # torch's own handler would raise in the middle of whatever the program is doing.
    handler = signal.getsignal(signal.SIGCHLD)
    assert "torch" not in (getattr(handler, "__module__", None) or "")


def test_a_batch_that_kills_every_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.5)
    loader = Loader(Numbered(40), Killing("7"), batch_size=8, seed=0, num_workers=2)
    step = permutation(0, 0, 40).tolist().index(7) // 8
    members = ", ".join(map(str, permutation(0, 0, 40)[8 * step : 8 * step + 8]))
    message = rf"step {step} could not be read in two attempts: .* numbered {members}\."
    with pytest.raises(DataError, match=message):
        indices(loader, 6)


def test_a_worker_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(sample: Sample, random: Random) -> Mapping[str, np.ndarray] | None:
        time.sleep(0.3)
        return read(sample, random)

    monkeypatch.setattr(workers, "POLL_SECONDS", 0.3)
    loader = Loader(Numbered(40), hang, batch_size=8, seed=0, num_workers=1, timeout=0.6)
    with pytest.raises(DataError, match="step 0 could not be read in two attempts: no answer"):
        next(iter(loader))


def test_slow_reading_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(sample: Sample, random: Random) -> Mapping[str, np.ndarray] | None:
        time.sleep(0.5)
        return read(sample, random)

    monkeypatch.setattr(workers, "POLL_SECONDS", 0.2)
    loader = Loader(Numbered(40), slow, batch_size=2, seed=0, num_workers=1)
    assert indices(loader, 2) == indices(Loader(Numbered(40), read, batch_size=2, seed=0), 2)


def test_errors_of_the_program_are_not_taken_for_damage() -> None:
    def wrong(sample: Sample, random: Random) -> Mapping[str, np.ndarray] | None:
        raise RuntimeError("a mistake in the program")

    for num_workers in (0, 1):
        loader = Loader(Numbered(40), wrong, batch_size=2, seed=0, num_workers=num_workers)
        with pytest.raises(RuntimeError, match="a mistake in the program"):
            next(iter(loader))


def test_reading_takes_little_besides_the_reading() -> None:
    loader = iter(Loader(Numbered(5000), read, batch_size=64, seed=0))
    next(loader)
    start = time.process_time()
    for _ in range(20):
        next(loader)
    assert (time.process_time() - start) / 20 / 64 < 1e-3  # 20 µs without the checks of the tests


def test_fixed_batches_are_the_same_at_every_call() -> None:
    source = Numbered(30, damaged={4})
    one, same = (list(fixed_batches(source, read, count=10, batch_size=4)) for _ in range(2))
    assert [len(batch["index"]) for batch in one] == [4, 4, 2]
    assert torch.equal(flat([one]), flat([same]))
    assert sorted(flat([one])[:, 0].tolist()) != list(range(10))  # from the whole source
    more = flat([list(fixed_batches(source, read, count=99, batch_size=7))])
    assert sorted(more[:, 0].tolist()) == [i for i in range(30) if i != 4]
    # The first ones do not depend on how many are asked for, nor the noise on the batch.
    assert torch.equal(more[:10], flat([one]))
    assert list(fixed_batches(source, lambda *_: None, count=5, batch_size=2)) == []


@pytest.mark.gpu
@pytest.mark.parametrize("num_workers", [0, 2])
def test_pinned_batches_are_the_same_ones(num_workers: int) -> None:
    plain = Loader(Numbered(40), read, batch_size=8, seed=0)
    pinned = Loader(Numbered(40), read, batch_size=8, seed=0, num_workers=num_workers, pinned=True)
    found = steps(pinned, 4)
    assert all(array.is_pinned() for step in found for part in step for array in part.values())
    assert torch.equal(flat(found), flat(steps(plain, 4)))
