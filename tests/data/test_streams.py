"""Streams: every row once an epoch, in an order of the seed, whatever reads it from wherever."""

import itertools
import json
from collections import Counter
from pathlib import Path
from random import Random

import datasets
import numpy as np
import pytest

from dalle.cli.training_data import open_parts, some_captions
from dalle.data import hub_stream
from dalle.data.hub_stream import HubStream
from dalle.data.loader import Loader
from dalle.data.sources import numbered, open_source
from dalle.errors import ConfigError, DataError
from dalle.presets.settings import DataSettings
from dalle.protocols import Sample
from tests.data.formats import saved_dataset
from tests.data.test_formats import drawn

SIZE, BAD = 41, 17


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> HubStream:
    """Five files of uneven lengths as one data set, with one damaged picture."""
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("stream")
    pairs = [(data, (str(i), "")) for i, (data, _) in enumerate(drawn(SIZE))]
    pairs[BAD] = (b"<html>", pairs[BAD][1])
    ends = [0, 3, 4, 20, 33, SIZE]
    parts = []
    for start, end in itertools.pairwise(ends):
        saved_dataset(folder / str(start), pairs[start:end])
        parts.append(datasets.load_from_disk(str(folder / str(start))))
    for number, part in enumerate(parts):
        (folder / "all").mkdir(exist_ok=True)
        part.to_parquet(folder / "all" / f"{number}.parquet")
    opened = open_source(f"hub:{folder / 'all'}?stream=yes")
    assert isinstance(opened, HubStream)
    return opened


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_stream, "BUFFER", 7)


def read(sample: Sample, random: Random) -> dict[str, np.ndarray]:
    return {"id": np.array(int(sample.captions[0])), "draw": np.array(random.random())}


def loader(stream: HubStream, **options: object) -> Loader:
    settings = {"batch_size": 12, "seed": 5, "max_bad_fraction": 1.0, **options}
    return Loader(stream, read, **settings)  # type: ignore[arg-type]


def steps(some: Loader, count: int) -> list[list[tuple[int, float]]]:
    found = []
    for parts in itertools.islice(some, count):
        rows = [(part["id"].tolist(), part["draw"].tolist()) for part in parts]
        found.append([pair for ids, draws in rows for pair in zip(ids, draws, strict=True)])
    return found


def test_an_epoch_is_every_row_once_in_another_order(stream: HubStream) -> None:
    orders = [[row.captions[0] for row in stream.rows(seed=1, epoch=e)] for e in (0, 1, 0)]
    assert Counter(orders[0]) == Counter(orders[1]) == Counter(map(str, range(SIZE)))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != [row.captions[0] for row in stream.rows(seed=2, epoch=0)]
    numbers = {row.key: row.number for row in stream.rows(seed=1, epoch=0)}
    assert numbers == {row.key: row.number for row in stream.rows(seed=4, epoch=3)}
    assert len(set(numbers.values())) == SIZE


def test_ranks_and_workers_share_one_sequence(stream: HubStream, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    whole = steps(loader(stream, bad_samples=bad), 8)
    for world, workers in ((2, 0), (3, 0), (2, 2), (1, 1)):
        ranks = [
            steps(loader(stream, rank=r, world=world, micro_batches=2, num_workers=workers), 8)
            for r in range(world)
        ]
        together = [[pair for rank in step for pair in rank] for step in zip(*ranks, strict=True)]
        assert together == whole
    seen = [i for step in whole for i, _ in step][:SIZE]
    assert set(range(SIZE)) - set(seen) == {BAD}
    [row] = [json.loads(line) for line in bad.read_text().splitlines()]
    assert "is no JPEG" in row["reason"]
    assert row["substitute_key"] != row["key"]


def test_a_resumed_run_reads_what_it_would_have_read(stream: HubStream) -> None:
    whole = steps(loader(stream), 9)
    for start, workers in ((1, 0), (4, 1), (8, 2)):
        left = loader(stream, start_step=start, num_workers=workers)
        assert steps(left, 9 - start) == whole[start:]


def test_damage_everywhere_ends_the_run(stream: HubStream) -> None:
    def refuse(sample: Sample, random: Random) -> dict[str, np.ndarray]:
        raise DataError("no good")

    nothing = Loader(stream, refuse, batch_size=4, seed=0)
    with pytest.raises(DataError, match=r"of one batch are damaged .* no good"):
        next(iter(nothing))


def test_what_needs_numbers_refuses_a_stream(
    stream: HubStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalle.cli.training_data.open_source", lambda *_, **__: stream)
    with pytest.raises(ConfigError, match="no part to hold out"):
        open_parts(DataSettings(data="hub:x?stream=yes"), (16, 16), keep_empty=False)
    parts = open_parts(DataSettings(data="hub:x", held_out_share=0), (16, 16), keep_empty=False)
    assert parts.train is stream
    assert len(list(some_captions(stream, most=10))) == 10
    with pytest.raises(ConfigError, match="is a stream"):
        numbered(stream, "hub:x?stream=yes")
