"""Captions as people write them, through the commands: empty, endless, from right to left."""

from pathlib import Path

import pytest
from PIL import Image

from dalle.cli import main

CAPTIONS = ("a", "circle " * 15_000, "دائرة حمراء", "🦜🎲", " \n\n", "ring\nfive\n", "a\nb\nc", "d")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Eight pictures, one of them with an empty caption, two with captions of over 15 tokens."""
    folder = tmp_path / "birds"
    folder.mkdir()
    for number, caption in enumerate(CAPTIONS):
        Image.new("RGB", (40 + number, 33), (number * 20, 9, 200)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
    return folder


def train_clip(birds: Path, *more: str) -> int:
    command = ["train", "clip", "--preset", "tiny", "--data", str(birds), "--device", "cpu"]
    return main([*command, "--held-out-share", "0", "--out", str(birds.parent / "run"), *more])


def test_what_is_left_out_and_cut_is_counted(
    birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_clip(birds, "--text-vocab", "256") == 0
    said = capsys.readouterr().out
    assert "7 pictures in" in said
    assert "1 pictures with an empty caption (left out)" in said
    assert "2 of 10 captions have more than 15 tokens: their beginnings are used" in said


def test_long_captions_can_be_refused(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_clip(birds, "--text-vocab", "256", "--long-captions", "refuse") == 2
    captured = capsys.readouterr()
    assert "the first of them ends the run (--long-captions refuse)" in captured.out
    assert "there is room for 15" in captured.err
    assert "Traceback" not in captured.err


def test_nothing_is_said_where_all_fit(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        (birds / f"{number}.txt").write_text("short", encoding="utf-8")
    assert train_clip(birds, "--text-vocab", "256") == 0
    assert "captions have more" not in capsys.readouterr().out
