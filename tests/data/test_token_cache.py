"""The token cache: the codes of an encoding in memory, made once, never stale."""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dalle.data import token_files, token_store
from dalle.data.pictures import Pictures
from dalle.data.sources import open_source
from dalle.data.split import Subset, is_marked
from dalle.data.token_cache import cached_codes
from dalle.data.token_files import Encoding
from dalle.data.token_store import content_of
from dalle.data.tokens import encode_source
from dalle.errors import DataError, SaveError
from dalle.protocols import Sample, Source
from dalle.tokenizers.text import TextTokenizer
from tests.data.formats import FORMATS
from tests.data.test_formats import drawn, quiet  # noqa: F401 - a fixture
from tests.data.test_tokens import MeanTokenizer, augmented


class Counting(MeanTokenizer):
    """Counts the pictures that it encodes."""

    def __init__(self) -> None:
        self.pictures = 0

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        self.pictures += len(images)
        return super().encode(images)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "SHARD", 4)
    monkeypatch.setattr(token_files, "GIVE_UP_SECONDS", 0.3)


def encoding(tokenizer: Counting, *, digest: str = "a", views: int = 2) -> Encoding:
    return Encoding(
        tokenizer=tokenizer,
        digest=digest,
        view=augmented,
        view_name="crop",
        views=views,
        device=torch.device("cpu"),
    )


def codes(source: Source) -> list[tuple[str, tuple[str, ...], list[int]]]:
    return [
        (s.key, s.captions, s.codes.flatten().tolist())
        for s in (source[i] for i in range(len(source)))
    ]


class ByContent:
    """Samples whose keys are the hashes of their files, which the crops in the cache depend on."""

    def __init__(self, source: Pictures) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Sample:
        sample, data = self.source[index], self.source.data(index)
        return Sample(key=content_of(data), image=sample.image, captions=sample.captions)


@pytest.mark.parametrize("form", ["beside", "archives", "saved_dataset"])
def test_codes_are_those_of_encoding_in_memory(form: str, tmp_path: Path) -> None:
    source = open_source(FORMATS[form](tmp_path / "data", drawn(9)))
    assert isinstance(source, Pictures)
    tokenizer = Counting()
    cached = cached_codes(source, encoding(tokenizer), tmp_path / "cache")
    in_memory = encode_source(ByContent(source), MeanTokenizer(), augmented, views=2)
    assert [row[1:] for row in codes(cached)] == [row[1:] for row in codes(in_memory)]
    assert [row[0] for row in codes(cached)] == [source.key(i) for i in range(9)]
    assert tokenizer.pictures == 18
    again = cached_codes(source, encoding(tokenizer), tmp_path / "cache")
    assert codes(again) == codes(cached)
    assert tokenizer.pictures == 18


def test_what_changes_is_made_again_and_nothing_else(tmp_path: Path) -> None:
    folder, pairs = tmp_path / "data", drawn(9)
    source = open_source(FORMATS["beside"](folder, pairs))
    assert isinstance(source, Pictures)
    tokenizer, fill = Counting(), partial(cached_codes, folder=tmp_path / "cache")
    fill(source, encoding(tokenizer))
    for other in (encoding(tokenizer, digest="b"), encoding(tokenizer, views=1)):
        before = tokenizer.pictures
        fill(source, other)
        assert tokenizer.pictures == before + 9 * other.views
    before = tokenizer.pictures
    old = codes(fill(source, encoding(tokenizer)))
    changed = folder / source.key(5)
    # Of the same length: a comment in the file's last bytes keeps it a picture, another one.
    size, new = changed.stat().st_size, drawn(30)[29][0]
    changed.write_bytes(changed.read_bytes() + new)
    longer = codes(fill(open_source(folder), encoding(tokenizer)))
    assert tokenizer.pictures == before + 2
    changed.write_bytes(changed.read_bytes()[:size] + bytes(len(new)))
    same_length = codes(fill(open_source(folder), encoding(tokenizer)))
    assert tokenizer.pictures == before + 2 * 2
    for other_codes in (longer, same_length):
        assert [a[:2] for a in old] == [a[:2] for a in other_codes]
        same = [a == b for a, b in zip(old, other_codes, strict=True)]
        assert same == [i != 5 for i in range(9)]


def test_the_same_bytes_elsewhere_have_their_codes_already(tmp_path: Path) -> None:
    folder, pairs = tmp_path / "data", drawn(9)
    first, rest = FORMATS["beside"](tmp_path / "first", pairs[:4]), pairs[4:]
    tokenizer, fill = Counting(), partial(cached_codes, folder=tmp_path / "cache")
    fill(open_source(first), encoding(tokenizer))
    shutil.copytree(first, folder)
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(1, 1))
    copied = fill(open_source(folder), encoding(tokenizer))
    assert codes(copied) == codes(fill(open_source(first), encoding(tokenizer)))
    assert tokenizer.pictures == 4 * 2
    # More pictures, another format, other names, a part of it, several times: what is new is made.
    archives = FORMATS["archives"](tmp_path / "archives", [*rest, *pairs[:4]])
    mixed = open_source(f"mix:1*{archives}+3*{folder}")
    assert len(codes(fill(mixed, encoding(tokenizer)))) == len(mixed) > 13
    assert tokenizer.pictures == 9 * 2


def test_what_was_stopped_goes_on_and_others_help(tmp_path: Path) -> None:
    source = open_source(FORMATS["beside"](tmp_path / "data", drawn(11)))
    cache, seen = tmp_path / "cache", list[int]()
    whole = cached_codes(source, encoding(Counting()), tmp_path / "whole")
    cached_codes(source, encoding(Counting()), cache)
    files = sorted(cache.rglob("*.contents.npy"))
    assert len(files) == 3
    files[1].unlink()
    tokenizer = Counting()
    # The second of two processes does its share, and then what the first one left undone.
    filled = cached_codes(source, encoding(tokenizer), cache, part=1, parts=2, progress=seen.append)
    assert tokenizer.pictures in (8, 6)
    assert sum(seen) == 11
    assert codes(filled) == codes(whole)


def test_what_could_not_be_read_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(FORMATS["beside"](tmp_path / "data", drawn(5)))
    assert isinstance(source, Pictures)
    load = source._load

    def fails(index: int, key: str) -> Path | bytes:
        if index == 3:
            raise DataError("the network is down")
        return load(index, key)

    tokenizer, fill = Counting(), partial(cached_codes, folder=tmp_path / "cache")
    monkeypatch.setattr(fails, "mark", lambda i: str(i), raising=False)
    monkeypatch.setattr(source, "_load", fails)
    with pytest.raises(DataError, match="network"):
        fill(source, encoding(tokenizer))[3]
    assert tokenizer.pictures == 8
    load_again = partial(load)
    monkeypatch.setattr(load_again, "mark", lambda i: str(i), raising=False)
    monkeypatch.setattr(source, "_load", load_again)
    with pytest.raises(DataError, match="network"):  # the processes of a run agree
        fill(source, encoding(tokenizer))[3]
    monkeypatch.setattr(token_store, "RETRY_SECONDS", -1.0)
    assert len(codes(fill(source, encoding(tokenizer)))) == 5
    assert tokenizer.pictures == 10


OPENED: list[str] | None = None
"""Files that were opened, while a test wants to know."""


def note_opened(event: str, arguments: tuple[object, ...]) -> None:
    if OPENED is not None and event == "open":
        OPENED.append(str(arguments[0]))


def test_later_runs_open_no_file_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "data", tmp_path / "cache"
    place = FORMATS["beside"](folder, drawn(9))
    text = TextTokenizer.train(["a caption", "another one"], vocab_size=300)

    def run() -> Source:
        source = open_source(place, cache=cache)
        return cached_codes(source, encoding(Counting()), cache, text=text)

    first = codes(run())
    sys.addaudithook(note_opened)
    opened: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "OPENED", opened)
    again = run()
    assert codes(again) == first
    for index in range(9):
        sample = again[index]
        assert sample.token_ids is not None  # type: ignore[union-attr]
        ids = [one.tolist() for one in sample.token_ids]  # type: ignore[union-attr]
        assert ids == [text.encode(caption) for caption in sample.captions]
    assert any(str(cache) in path for path in opened)
    assert [path for path in opened if path.startswith(f"{folder}{os.sep}")] == []
    changed = next(folder.rglob("*.txt"))
    changed.write_text("something else", "utf-8")
    assert any(row[1] == ("something else",) for row in codes(run()))
    assert str(changed) in opened


def test_damaged_pictures_stay_damaged(tmp_path: Path) -> None:
    pairs = drawn(6)
    pairs[3] = (b"<html>", pairs[3][1])
    source = open_source(FORMATS["archives"](tmp_path / "data", pairs))
    cached = cached_codes(source, encoding(Counting()), tmp_path / "cache")
    bad = [i for i in range(6) if source.captions(i) == pairs[3][1]]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="is no JPEG"):
        cached[bad[0]]
    assert len(cached) == 6


def test_samples_that_repeat_are_encoded_once(tmp_path: Path) -> None:
    source = Subset(open_source(FORMATS["beside"](tmp_path / "data", drawn(5))), [4, 0, 4, 2, 0])
    tokenizer = Counting()
    cached = cached_codes(source, encoding(tokenizer), tmp_path / "cache")
    assert tokenizer.pictures == 3 * 2
    assert [s[0] for s in codes(cached)] == [source.key(i) for i in range(5)]


def test_the_room_is_said_first_and_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(FORMATS["beside"](tmp_path / "data", drawn(5)))
    said: list[str] = []
    cached_codes(source, encoding(Counting()), tmp_path / "cache", say=said.append)
    assert said[0].startswith("codes of 5 pictures, 2 views each: 0.0 MB in")
    usage = SimpleNamespace(free=3)
    monkeypatch.setattr(token_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SaveError, match=r"fewer --views"):
        cached_codes(source, encoding(Counting()), tmp_path / "other")


def test_pictures_that_are_drawn_are_not_cached() -> None:
    assert not is_marked(open_source("shapes", num_samples=3))
    assert not is_marked(open_source("mix:1*shapes+2*shapes:heldout", num_samples=3))


def test_other_code_leads_to_other_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = encoding(Counting()).name()
    changed = tmp_path / "transforms.py"
    changed.write_text("# another crop")
    monkeypatch.setattr(token_files.transforms, "__file__", str(changed))
    assert encoding(Counting()).name() != before


def test_a_run_without_captions_leaves_those_that_are_kept(tmp_path: Path) -> None:
    folder, cache = tmp_path / "data", tmp_path / "cache"
    open_source(FORMATS["beside"](folder, drawn(3)), cache=cache)
    kept = {path: path.read_bytes() for path in (cache / "captions").iterdir()}
    assert any(kept.values())
    open_source(folder, captions=False, keep_empty=True, cache=cache)
    assert {path: path.read_bytes() for path in (cache / "captions").iterdir()} == kept
