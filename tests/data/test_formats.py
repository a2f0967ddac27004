"""The same pairs in every format are the same samples."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from dalle.data.shapes import ShapesSource
from dalle.data.sources import open_source
from dalle.errors import ConfigError, InputError
from dalle.protocols import Sample, Source
from tests.data.formats import FORMATS, Pair, archives, beside, tar


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def drawn(count: int) -> list[Pair]:
    """Pictures in three kinds of files, with two captions each, one of them odd to write down."""
    source, pairs = ShapesSource(count, size=32, seed=0), []
    for index in range(count):
        stream, sample = io.BytesIO(), source[index]
        kind = ("PNG", "JPEG", "WEBP")[index % 3]
        sample.image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
        odd = f'sign {index}: STOP, "ünïcode" 日本, it\'s'
        pairs.append((stream.getvalue(), (sample.captions[0], odd)))
    return pairs


def samples(source: Source) -> list[tuple[tuple[str, ...], bytes]]:
    """Captions and pixels, in the order of the captions."""
    found = []
    for index in range(len(source)):
        sample = source[index]
        assert isinstance(sample, Sample)
        found.append((sample.captions, np.asarray(sample.image).tobytes()))
    return sorted(found)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_samples(form: str, tmp_path: Path) -> None:
    pairs = drawn(9)
    source = open_source(FORMATS[form](tmp_path / form, pairs))
    assert samples(source) == samples(open_source(beside(tmp_path / "plain", pairs)))
    assert len(source) == 9


def test_folders_named_for_what_they_show_are_captions(tmp_path: Path) -> None:
    for name in ("red_panda", "cat"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / name / "1.JPG", "JPEG")
    guessed = open_source(tmp_path)
    assert [guessed[i].captions for i in range(2)] == [
        ("a picture of cat",),
        ("a picture of red panda",),
    ]
    assert "captions are made from the names of 2 folders" in guessed.report.line()  # type: ignore[attr-defined]
    asked = open_source(f"{tmp_path}?template=one {{}}&template={{}}, drawn")
    assert asked[1].captions == ("one red panda", "red panda, drawn")
    with pytest.raises(ConfigError, match=r"template 'cats' has no \{\}"):
        open_source(f"{tmp_path}?template=cats")


def test_members_are_chosen_by_their_suffix(tmp_path: Path) -> None:
    one, two = (data for data, _ in drawn(2))
    members = [("a.seg.png", two), ("a.jpg", one), ("a.cap", b"chosen"), ("a.txt", b"other")]
    tar(tmp_path / "x.tar", members)
    plain = open_source(tmp_path / "x.tar")
    assert plain[0].captions == ("other",)
    chosen = open_source(f"{tmp_path / 'x.tar'}?image=seg.png&caption=cap")
    assert chosen[0].captions == ("chosen",)
    assert samples(chosen)[0][1] != samples(plain)[0][1]


def test_an_option_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    archives(tmp_path / "tars", drawn(3))
    beside(tmp_path / "plain", drawn(3))
    with pytest.raises(ConfigError, match="'split' does not fit it; expected image, caption"):
        open_source(f"{tmp_path}/tars?split=train")
    with pytest.raises(ConfigError, match="'caption' does not fit it; expected template"):
        open_source(f"{tmp_path}/plain?caption=x")
    with pytest.raises(InputError, match=r"there is no archive '.*x-2\.tar'"):
        open_source(f"{tmp_path}/tars/x-{{2..2}}.tar")
    with pytest.raises(ConfigError, match=r"in braces"):
        open_source(f"{tmp_path}/tars/x-{{2...tar")
    with pytest.raises(ConfigError, match="stands for more than"):
        open_source("x-{0..999999999}.tar")


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    beside(tmp_path, drawn(3))
    (tmp_path / "rows.csv").write_text("file_name,text\npictures/0/00000.png,a\n")
    with pytest.raises(ConfigError, match="no column title; it has: 'file_name', 'text'"):
        open_source(f"{tmp_path / 'rows.csv'}?caption=title")


def test_a_mixture_has_each_share(tmp_path: Path) -> None:
    beside(tmp_path / "few", drawn(3))
    beside(tmp_path / "many", [(data, (f"many {c}", d)) for data, (c, d) in drawn(8)])
    source = open_source(f"mix:1*{tmp_path / 'few'} + 1*{tmp_path / 'many'}")
    many = [c[0].startswith("many") for c, _ in samples(source)]
    assert (many.count(True), many.count(False)) == (8, 8)
    counts = {c: 0 for c, _ in samples(open_source(tmp_path / "few"))}
    for captions, _ in samples(source):
        if captions in counts:
            counts[captions] += 1
    assert sorted(counts.values()) == [2, 3, 3]
    skewed = open_source(f"mix:0.5*{tmp_path / 'few'}+4*{tmp_path / 'many'}")
    assert len(skewed) == 3 + 24
    for spec in ("mix:birds", "mix:0*a", "mix:2*a+b", "mix:1*mix:1*a"):
        with pytest.raises((ConfigError, InputError)):
            open_source(spec)
