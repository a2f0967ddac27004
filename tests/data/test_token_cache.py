"""The token cache: the codes of an encoding in memory, made once, never stale."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dalle.data import token_files
from dalle.data.sources import open_source
from dalle.data.split import Subset, is_marked
from dalle.data.token_cache import cached_codes
from dalle.data.token_files import Encoding
from dalle.data.tokens import encode_source
from dalle.errors import DataError, SaveError
from dalle.protocols import Source
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


@pytest.mark.parametrize("form", ["beside", "archives", "saved_dataset"])
def test_codes_are_those_of_encoding_in_memory(form: str, tmp_path: Path) -> None:
    source = open_source(FORMATS[form](tmp_path / "data", drawn(9)))
    tokenizer = Counting()
    cached = cached_codes(source, encoding(tokenizer), tmp_path / "cache")
    assert codes(cached) == codes(encode_source(source, MeanTokenizer(), augmented, views=2))
    assert tokenizer.pictures == 18
    again = cached_codes(source, encoding(tokenizer), tmp_path / "cache")
    assert codes(again) == codes(cached)
    assert tokenizer.pictures == 18


def test_what_changes_is_made_again(tmp_path: Path) -> None:
    folder, pairs = tmp_path / "data", drawn(9)
    source = open_source(FORMATS["beside"](folder, pairs))
    tokenizer, fill = Counting(), partial(cached_codes, folder=tmp_path / "cache")
    fill(source, encoding(tokenizer))
    for other in (encoding(tokenizer, digest="b"), encoding(tokenizer, views=1)):
        before = tokenizer.pictures
        fill(source, other)
        assert tokenizer.pictures == before + 9 * other.views
    before = tokenizer.pictures
    old = codes(fill(source, encoding(tokenizer)))
    changed = folder / source.key(5)  # type: ignore[attr-defined]
    changed.write_bytes(drawn(30)[29][0])
    new = codes(fill(open_source(folder), encoding(tokenizer)))
    assert tokenizer.pictures == before + 4 * 2  # the file that holds it, and no other
    assert [a == b for a, b in zip(old, new, strict=True)] == [i != 5 for i in range(9)]


def test_what_was_stopped_goes_on_and_others_help(tmp_path: Path) -> None:
    source = open_source(FORMATS["beside"](tmp_path / "data", drawn(11)))
    cache, seen = tmp_path / "cache", list[int]()
    whole = cached_codes(source, encoding(Counting()), tmp_path / "whole")
    cached_codes(source, encoding(Counting()), cache)
    files = sorted(cache.rglob("*.npy"))
    assert len(files) == 3
    files[1].unlink()
    tokenizer = Counting()
    # The second of two processes does its share, and then what the first one left undone.
    filled = cached_codes(source, encoding(tokenizer), cache, part=1, parts=2, progress=seen.append)
    assert tokenizer.pictures in (8, 6)
    assert sum(seen) == 11
    assert codes(filled) == codes(whole)


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
