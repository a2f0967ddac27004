"""Micro-batches handed between processes: nothing is written over that has not been taken."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dalle.data.handing import Handed, HandedParts
from dalle.data.parts import Part, Parts, Rows, Unused
from dalle.errors import DataError

UNUSED = Unused(index=3, key="c", reason="cut off", substitute=4, substitute_key="d")


class Ready(Parts):
    """Rows that are there already."""

    def rows(self, number: int) -> Rows:
        rows: Any = self.source[number]
        return rows


def some(seed: int, count: int = 3) -> Rows:
    draw = np.random.default_rng(seed)

    def row() -> dict[str, np.ndarray]:
        return {
            "image": draw.integers(0, 256, (5, 7, 3), np.uint8),
            "text": draw.integers(0, 9, 11),
            "vector": draw.standard_normal((2, 3)).astype(np.float32).T,
            "one": np.array(draw.standard_normal()),
            "none": np.zeros((0, 4), np.float32),
        }

    return Rows(rows=[row() for _ in range(count)], unused=(UNUSED,))


def reader(*parts: Rows) -> HandedParts:
    source: Any = list(parts)
    few: dict[str, Any] = {"batch_size": 1, "seed": 0, "rank": 0, "world": 1, "micro_batches": 1}
    return HandedParts(parts=Ready(source=source, read=lambda sample, random: None, **few))


def assert_same(found: Part, rows: Rows) -> None:
    expected = rows.stacked()
    assert found.unused == expected.unused and found.error is expected.error
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert torch.equal(found.arrays[name], array)


def where(handed: Handed) -> int:
    return handed.place.data_ptr()


def test_nothing_is_written_over_before_it_is_taken() -> None:
    parts = [some(seed) for seed in range(5)]
    read = reader(*parts)
    first, second = read[0], read[1]
    third = read[2]
    assert len({where(first), where(second), where(third)}) == 3
    places = {where(second): second.taken(), where(first): first.taken()}
    fourth, fifth = read[3], read[4]
    assert {where(fourth), where(fifth)} == places.keys()
    for found, expected in zip(
        [places[where(first)], places[where(second)], *(h.taken() for h in (third, fourth, fifth))],
        parts,
        strict=True,
    ):
        assert_same(found, expected)
    assert len(read.places) == 3


def test_what_is_taken_is_its_own() -> None:
    read = reader(some(0), some(1))
    handed = read[0]
    taken = handed.taken()
    again = read[1]
    assert where(again) == where(handed)
    assert_same(taken, some(0))


def test_places_of_another_size_are_let_go_of_once_they_are_taken() -> None:
    read = reader(some(0), some(1, count=8), some(2, count=8))
    small = read[0]
    large = read[1]
    assert len(read.places) == 2
    assert_same(small.taken(), some(0))
    last = read[2]
    assert {p.data_ptr() for p in read.places} == {where(large), where(last)}
    assert_same(large.taken(), some(1, count=8))
    assert_same(last.taken(), some(2, count=8))


def test_an_error_goes_with_it() -> None:
    failed = Rows(rows=[], unused=(UNUSED,), error=DataError("all are damaged"))
    assert_same(reader(failed)[0].taken(), failed)


@pytest.mark.gpu
def test_a_gpu_fetches_it_by_itself() -> None:
    handed = reader(some(0))[0]
    pinned = handed.pin_memory()
    assert_same(pinned, some(0))
    arrays: list[Tensor] = list(pinned.arrays.values())
    assert all(array.is_pinned() for array in arrays if array.numel())
    assert handed.place[0] == 0
