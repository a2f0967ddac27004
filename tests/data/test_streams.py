"""Streams: every row once an epoch, in an order of the seed, whatever reads it from wherever."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import datasets
import numpy as np
import pytest

from dalle.cli import main
from dalle.cli.training_data import Parts, open_parts, some_captions
from dalle.data import chosen_rows, hub_stream
from dalle.data.chosen_rows import HeldRows
from dalle.data.hub_stream import HubStream
from dalle.data.inspect import Findings, Inspection
from dalle.data.loader import Loader
from dalle.data.mixed_stream import MixedStream, NumberedStream
from dalle.data.mixture import reports
from dalle.data.quarantine import read_quarantine, write_quarantine
from dalle.data.shapes import ShapesSource
from dalle.data.sources import numbered, open_source
from dalle.data.split import captions_at, key_at
from dalle.errors import ConfigError, DataError
from dalle.presets.settings import DataSettings
from dalle.protocols import Sample, Source, Stream, StreamRow
from dalle.tokenizers.text import TextTokenizer
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


def opened(stream: HubStream, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Parts:
    monkeypatch.setattr("dalle.cli.training_data.open_source", lambda *_, **__: stream)
    data = DataSettings(data="hub:x?stream=yes", **settings)  # type: ignore[arg-type]
    return open_parts(data, (16, 16), keep_empty=False)


def keys(source: Source | Stream, *, seed: int = 0, epoch: int = 0) -> list[str]:
    if isinstance(source, Stream):
        return [row.key for row in source.rows(seed=seed, epoch=epoch)]
    return [key_at(source, index) for index in range(len(source))]


def test_held_out_rows_are_those_of_a_hash_and_never_trained_on(
    stream: HubStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = opened(stream, monkeypatch, held_out_share=0.3)
    assert isinstance(parts.train, Stream) and parts.held_out is not None
    held_out = set(keys(parts.held_out))
    assert 4 < len(held_out) < 20
    for epoch in (0, 1):
        assert sorted([*held_out, *keys(parts.train, seed=3, epoch=epoch)]) == sorted(keys(stream))
    of_each = {row.key: row.captions for row in stream.rows(seed=9, epoch=9)}
    for index, key in enumerate(keys(parts.held_out)):
        assert captions_at(parts.held_out, index) == of_each[key]
        if of_each[key] != (str(BAD),):
            assert parts.held_out[index].captions == of_each[key]
    more = opened(stream, monkeypatch, held_out_share=0.5).held_out
    assert more is not None and held_out < set(keys(more))
    # Of a long stream only the beginning is looked through, and what is held out stays out.
    monkeypatch.setattr(chosen_rows, "LOOKED_THROUGH", 20)
    short = opened(stream, monkeypatch, held_out_share=0.3)
    assert short.held_out is not None and set(keys(short.held_out)) < held_out
    assert keys(short.train) == keys(parts.train)
    for share in (1e-9, 1 - 1e-9):
        with pytest.raises(ConfigError, match="rows of the stream are held out"):
            opened(stream, monkeypatch, held_out_share=share)


def test_another_stream_is_held_out(stream: HubStream, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = opened(stream, monkeypatch, held_out="hub:y?stream=yes")
    assert parts.train is stream and parts.held_out is not None
    assert keys(parts.held_out) == keys(stream)
    assert len(list(some_captions(stream, most=10))) == 10


def test_listed_rows_are_left_out(
    stream: HubStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, listed = keys(stream)[:5], tmp_path / "bad.jsonl"
    write_quarantine(listed, dict.fromkeys(bad, "because"))
    parts = opened(stream, monkeypatch, held_out_share=0, quarantine=str(listed))
    assert sorted([*bad, *keys(parts.train)]) == sorted(keys(stream))


def mixed(stream: HubStream) -> MixedStream:
    shapes = ShapesSource(7, size=32)
    return MixedStream([(1, stream), (3, NumberedStream(shapes))])


def read_number(sample: Sample, random: Random) -> dict[str, np.ndarray]:
    shapes = sample.key.startswith("shapes/")
    number = -1 - int(sample.key[7:]) if shapes else int(sample.captions[0])
    return {"id": np.array(number), "draw": np.array(random.random())}


def test_a_mixture_has_its_shares_and_every_row(stream: HubStream) -> None:
    for epoch in (0, 1):
        rows = list(mixed(stream).rows(seed=1, epoch=epoch))
        ours = [row.key for row in rows if "/" not in row.key]
        theirs = [row.key for row in rows if "/" in row.key]
        assert Counter(theirs) == Counter(keys(stream))
        assert abs(len(ours) - 3 * len(theirs)) <= 3
        passes = [ours[i : i + 7] for i in range(0, len(ours) - 7, 7)]
        assert all(len({*one}) == 7 for one in passes)
        assert len(set(map(tuple, passes))) > 3  # each in another order
        first = ["/" not in row.key for row in rows[:40]]
        assert sum(first) == 30
    assert [row.key for row in rows] != keys(mixed(stream), seed=1, epoch=0)
    whole = mixed(stream)
    assert all(whole.key(row.number) == row.key for row in rows)
    good = [row for row in rows if row.captions != (str(BAD),)]
    assert all(whole.sample(row).captions == row.captions for row in good)


def test_a_mixture_is_resumed_and_shared_exactly(stream: HubStream) -> None:
    def some(**options: object) -> Loader:
        settings = {"batch_size": 12, "seed": 5, "max_bad_fraction": 1.0, **options}
        return Loader(mixed(stream), read_number, **settings)  # type: ignore[arg-type]

    whole = steps(some(), 20)
    assert steps(some(start_step=13, num_workers=2), 7) == whole[13:]
    ranks = [steps(some(rank=r, world=2, micro_batches=2), 20) for r in (0, 1)]
    together = [[pair for rank in step for pair in rank] for step in zip(*ranks, strict=True)]
    assert together == whole


def test_a_mixture_with_a_stream_is_one(tmp_path: Path) -> None:
    saved_dataset(tmp_path / "rows", drawn(9))
    name = f"hub:{tmp_path / 'rows'}"
    source = open_source(f"mix:1*{name}?stream=yes+2*{name}")
    assert isinstance(source, MixedStream)
    assert [report.pairs for report in reports(source)] == [9]
    assert Counter(row.key for row in source.rows(seed=0, epoch=0)).total() in (27, 28)
    with pytest.raises(ConfigError, match="is a stream"):
        numbered(source, "mix:...")


def test_an_empty_part_ends_the_run() -> None:
    class Nothing(NumberedStream):
        def rows(self, *, seed: int, epoch: int) -> Iterator[StreamRow]:
            return iter(())

    shapes = ShapesSource(3, size=32)
    with pytest.raises(DataError, match="part 2 of the mixture is empty"):
        list(MixedStream([(1, NumberedStream(shapes)), (1, Nothing(shapes))]).rows(seed=0, epoch=0))


def test_a_look_through_a_stream_is_one_through_its_rows(stream: HubStream) -> None:
    def look(source: Source | Stream, **options: int) -> Findings:
        tokenizer = TextTokenizer.train(["a"], vocab_size=256)
        inspection = Inspection(source=source, tokenizer=tokenizer, room=9, **options)
        assert list(inspection.run(lambda _: None))
        return inspection.findings()

    found = look(stream)
    assert (found.looked_at, found.of, found.num_bad) == (SIZE, None, 1)
    [bad] = [row.key for row in stream.rows(seed=0, epoch=0) if row.captions == (str(BAD),)]
    assert list(found.bad) == [bad]
    rows = HeldRows(stream, [row for row in stream.rows(seed=0, epoch=0)])
    numbered_rows = look(rows)
    assert (found.sizes, found.tokens, found.bad) == (
        numbered_rows.sizes,
        numbered_rows.tokens,
        numbered_rows.bad,
    )
    assert look(stream, processes=2) == found
    assert look(stream, most=10).looked_at == 10


def test_the_command_looks_at_a_stream(
    stream: HubStream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("dalle.data.sources.open_source", lambda *_, **__: stream)
    listed, out = tmp_path / "bad.jsonl", tmp_path / "report"
    words = ["data", "inspect", "hub:x?stream=yes", "--processes", "1", "--image-size", "16", "16"]
    assert main([*words, "--quarantine", str(listed), "--out", str(out)]) == 0
    assert f"looked at {SIZE} pictures" in capsys.readouterr().out
    assert len(read_quarantine(listed)) == 1
    assert (out / "pairs.png").is_file()
