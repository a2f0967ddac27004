"""Files of results: safe names, everything in their text, nothing overwritten."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from dalle.errors import InputError, SaveError
from dalle.sampling.contact_sheet import Band, Entry, contact_sheet
from dalle.sampling.filters import Sampling
from dalle.sampling.output import save_results
from dalle.sampling.picture import Made, Picture, PictureRecord, read_metadata

MADE = Made(
    model="runs/birds",
    model_hash="ab" * 32,
    weights="ema",
    reranker="reranker",
    dtype="float32",
    device="cpu",
    sampling=Sampling(temperature=0.85, top_p=0.95),
    rect=(2, 0),
    num_samples=16,
    launch=32,
    versions="dalle 0.1.0, torch 2.13.0",
)
NASTY = [
    "../../outside", "/etc/passwd", "con", "nul", "aux.png", "-rf", "--help", ".", "..", "~",
    "a\nb", "a\0b", "a/b\\c", "*?<>|:\"", "$(id)", "`id`", "%00", "C:\\x", "\x1b[31mred", "\u202e",
    "<script>", "é" * 255, "👩‍👩‍👧" * 90, "\ufffd", "\ud800", " ", "", "a" * 100_000, "﷽", "שלום",
]  # fmt: skip


def picture(prompt: str = "a red cube", *, seed: int = 7, size: tuple[int, int] = (12, 16)):
    """A picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Picture(
        image=Image.fromarray(noise),
        prompt=prompt,
        seed=seed,
        score=0.25 + seed / 1000,
        score_kind="clip",
        log_prob=-12.5,
        codes=torch.arange(6).reshape(2, 3) + seed,
        num_cut=0,
        made=MADE,
    )


@pytest.mark.parametrize(
    "prompt", ["a red cube", "", "👩‍👩‍👧 שלום \u202e عالم", "a\nb\0c", "ü" * 100_000, "null", "3"]
)
def test_a_file_says_how_its_picture_was_made(tmp_path: Path, prompt: str) -> None:
    original = picture(prompt)
    path = original.save(tmp_path / "cube.png")
    assert read_metadata(path) == original.record()
    with Image.open(path) as image:
        assert image.tobytes() == original.image.tobytes()
        assert image.text["prompt"] == prompt
        for name in ("seed", "score", "model", "dtype", "device"):
            assert name in image.text


def test_saving_overwrites_nothing(tmp_path: Path) -> None:
    path = picture().save(tmp_path / "cube.png")
    before = path.read_bytes()
    with pytest.raises(SaveError, match=r"cube\.png exists"):
        picture(seed=8).save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({}, "does not say how it was made"),
        ({"Software": "Photos"}, "does not say how it was made"),
        ({"Software": "dalle", "prompt": "a"}, "is missing"),
        ({"Software": "dalle", "seed": "[" * 5000}, "not what dalle writes"),
        ({"Software": "dalle", "seed": "seven"}, "not what dalle writes"),
        ({"Software": "dalle", "colour": "1"}, "colour is not a field"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: dict[str, str], message: str) -> None:
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_itxt(key, value)
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(InputError, match=message):
        read_metadata(tmp_path / "x.png")


def test_what_is_no_png_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no picture"):
        read_metadata(tmp_path / "none.png")
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(InputError, match="not a PNG"):
        read_metadata(tmp_path / "page.png")
    whole = picture().save(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    with pytest.raises(InputError):
        read_metadata(tmp_path / "cut.png")


def test_results_are_pictures_a_sheet_and_one_json_file(tmp_path: Path) -> None:
    results = [[picture(seed=1), picture(seed=2)], [picture("שלום 😀", seed=3)]]
    saved = save_results(tmp_path / "out", results)
    assert [path.name[:5] + path.name[13:] for path in saved.pictures] == [
        "0000--000.png",
        "0000--001.png",
        "0001--000.png",
    ]
    assert [path.name for path in saved.sheets] == ["contact-sheet.png"]
    data = json.loads(saved.record.read_text("utf-8"))
    assert data["contact_sheets"] == ["contact-sheet.png"]
    assert [entry.pop("file") for entry in data["pictures"]] == [p.name for p in saved.pictures]
    originals = [p.record() for pictures in results for p in pictures]
    assert [PictureRecord.from_fields(e, path="json") for e in data["pictures"]] == originals
    assert [read_metadata(path) for path in saved.pictures] == originals


def test_earlier_results_stay_and_numbers_go_on(tmp_path: Path) -> None:
    first = save_results(tmp_path, [[picture()], [picture("b")]])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    second = save_results(tmp_path, [[picture()]])
    assert second.pictures[0].name.startswith("0002-")
    assert second.record.name == "generation-1.json"
    assert second.sheets[0].name == "contact-sheet-1.png"
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(tmp_path.iterdir())) == len(before) + 3
    assert first.record.name == "generation.json"


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    names = [p.name for p in save_results(tmp_path / "a", [[picture()]]).pictures]
    (tmp_path / "b").mkdir()
    for name in (*names, "generation.json", "contact-sheet.png"):
        (tmp_path / "b" / name).symlink_to(outside)
    saved = save_results(tmp_path / "b", [[picture()]])
    assert not outside.exists()
    assert saved.pictures[0].name.startswith("0001-")
    assert saved.record.name == "generation-1.json"


def test_no_prompt_reaches_a_name(tmp_path: Path) -> None:
    prompts = (NASTY * 7)[:200]
    results = [[picture(prompt.replace("\ud800", "\ufffd"), size=(2, 2))] for prompt in prompts]
    saved = save_results(tmp_path / "out", results)
    assert len({path.name.lower() for path in saved.pictures}) == 200
    allowed = set("0123456789abcdef-.png")
    for path in saved.pictures:
        assert path.parent == tmp_path / "out"
        assert set(path.name) <= allowed
        assert path.is_file() and not path.is_symlink()
    written = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {*saved.pictures, *saved.sheets, saved.record}


def test_what_was_made_before_an_error_is_kept_whole(tmp_path: Path) -> None:
    def failing() -> Iterator[list[Picture]]:
        yield [picture(seed=1)]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_results(tmp_path, failing())
    data = json.loads((tmp_path / "generation.json").read_text("utf-8"))
    assert len(data["pictures"]) == 1
    assert (tmp_path / "contact-sheet.png").exists()


def test_no_pictures_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture to save"):
        save_results(tmp_path, [])


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    def never() -> Iterator[list[Picture]]:
        raise AssertionError("generated in vain")
        yield []

    with pytest.raises(SaveError, match="file"):
        save_results(tmp_path / "file" / "out", never())
    with pytest.raises(SaveError, match="file"):
        save_results(tmp_path / "file", never())


def test_an_interrupt_leaves_no_half_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = os.fdopen, 0

    def open_once(descriptor: int, mode: str) -> object:
        nonlocal count
        count += 1
        if count == 2:
            os.write(descriptor, b"half")
            os.close(descriptor)
            raise KeyboardInterrupt
        return real(descriptor, mode)

    monkeypatch.setattr(os, "fdopen", open_once)
    with pytest.raises(KeyboardInterrupt):
        save_results(tmp_path, [[picture(seed=1), picture(seed=2)]])
    data = json.loads((tmp_path / "generation.json").read_text("utf-8"))
    [file] = [path for path in tmp_path.iterdir() if path.name != "generation.json"]
    assert [entry["file"] for entry in data["pictures"]] == [file.name]
    assert read_metadata(file).seed == 1


def test_a_full_disk_is_named_and_leaves_no_half_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdopen

    class Full:
        def __init__(self, descriptor: int) -> None:
            self.file = real(descriptor, "wb")

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: Full(descriptor))
    with pytest.raises(SaveError, match=r"0000-\w+-000\.png .*No space left"):
        save_results(tmp_path, [[picture()]])
    assert list(tmp_path.iterdir()) == []


def entries(count: int, size: tuple[int, int]) -> tuple[Entry, ...]:
    return tuple(
        Entry(image=picture(seed=i, size=size).image, caption=(f"CLIP 0.{i}", f"seed {i}"))
        for i in range(count)
    )


@pytest.mark.parametrize("size", [(1, 1), (12, 16), (48, 48), (600, 200), (5, 400)])
@pytest.mark.parametrize("count", [1, 9])
def test_a_sheet_shows_every_picture(size: tuple[int, int], count: int) -> None:
    band = Band(title="a red cube", note="", entries=entries(count, size))
    sheet = contact_sheet([band])
    bare = contact_sheet([Band(title="a red cube", note="", entries=entries(1, size))])
    assert sheet.width <= 8 * 300 + 200
    assert (sheet.width, sheet.height) >= (bare.width, bare.height)
    without = np.asarray(contact_sheet([Band(title="", note="", entries=entries(count, size))]))
    assert (without < 250).any()


@pytest.mark.parametrize("title", [*NASTY, "word " * 3000])
def test_a_sheet_takes_any_prompt(title: str) -> None:
    sheet = contact_sheet([Band(title=title, note="0000-ab", entries=entries(2, (48, 48)))])
    assert 100 < sheet.height < 600


def test_small_pictures_keep_their_pixels_on_a_sheet() -> None:
    image = picture(size=(8, 8)).image
    sheet = contact_sheet([Band(title="", note="", entries=(Entry(image=image, caption=()),))])
    large = np.asarray(image.resize((112, 112), Image.Resampling.NEAREST))[1:-1, 1:-1]
    page = np.asarray(sheet)
    places = (page[:-109, :-109] == large[0, 0]).all(-1).nonzero()
    found = any(
        np.array_equal(page[top : top + 110, left : left + 110], large)
        for top, left in zip(*places, strict=True)
    )
    assert found


def test_many_pictures_take_several_sheets(tmp_path: Path) -> None:
    saved = save_results(tmp_path, [[picture(seed=i, size=(2, 2)) for i in range(100)]])
    assert [path.name for path in saved.sheets] == ["contact-sheet.png", "contact-sheet-1.png"]
