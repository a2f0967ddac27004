"""`dalle data`: a look through a data set, what it says and leaves behind, and codes made ahead."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dalle.cli import main
from dalle.cli.training_data import open_parts
from dalle.data.mixture import reports
from dalle.data.quarantine import read_quarantine
from dalle.errors import InputError
from dalle.presets.settings import DataSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pairs, one of them damaged, with markup in a caption."""
    place = tmp_path / "data"
    place.mkdir()
    for number in range(9):
        Image.new("RGB", (16, 16), (20 * number, 9, 9)).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"<script>alert({number})</script> \x1b[1m")
    (place / "3.png").unlink()
    (place / "3.txt").rename(place / "<script>.txt")
    (place / "<script>.png").write_bytes(b"<script>")
    (place / "8.png").write_bytes((place / "7.png").read_bytes())
    return place


def test_a_look_says_whether_training_would_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = ["data", "inspect", str(folder), "--processes", "1", "--image-size", "16", "16"]
    assert main(look) == 8
    said = capsys.readouterr()
    assert "1 of 9 samples cannot be read, more than 1.00%" in said.err
    assert "9 pictures in" in said.out
    assert main([*look, "--max-bad", "0.2"]) == 0
    quarantine = tmp_path / "bad.jsonl"
    written = ["--quarantine", str(quarantine), "--out", str(tmp_path / "report")]
    assert main([*look, *written, "--quarantine-duplicates"]) == 0
    said = capsys.readouterr()
    assert "training would work" in said.out
    assert "\x1b" not in said.out
    left_out = read_quarantine(quarantine)
    assert left_out["<script>.png"].endswith("is no JPEG, PNG, WebP or GIF")
    assert len(left_out) == 2
    assert {*left_out} - {"<script>.png"} <= {"7.png", "8.png"}
    value = json.loads((tmp_path / "report" / "report.json").read_text())
    assert value["training_would_work"] is True
    assert value["findings"]["looked_at"] == value["listing"][0]["pairs"] == 9
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "data:image/png;base64," in page
    with Image.open(tmp_path / "report" / "pairs.png") as sheet:
        assert sheet.width > 100
    # Training leaves out what is in the list, and all else stays.
    settings = DataSettings(data=str(folder), held_out_share=0, quarantine=str(quarantine))
    assert len(open_parts(settings, (16, 16), keep_empty=False).train) == 7


def test_lists_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    for text in ("not json", "[1]", '{"reason": 1}'):
        (tmp_path / "list").write_text(text)
        settings = DataSettings(data=str(folder), quarantine=str(tmp_path / "list"))
        with pytest.raises(InputError, match="list"):
            open_parts(settings, (16, 16), keep_empty=False)


def test_every_part_of_a_mixture_is_told(folder: Path) -> None:
    settings = DataSettings(data=f"mix:1*{folder}+2*{folder}", held_out_share=0)
    parts = open_parts(settings, (16, 16), keep_empty=False)
    assert [report.pairs for report in reports(parts.train)] == [9, 9]
    assert len(parts.train) == 27


@pytest.mark.distributed
def test_codes_are_made_ahead_and_found_by_training(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    device = ["--device", "cpu"]
    vae = ["--vae", str(tmp_path / "vae")]
    assert main(["train", "vae", "--preset", "tiny", "--out", vae[1], *device]) == 0
    data = ["--data", str(folder), "--held-out-share", "0.25", "--views", "2"]
    capsys.readouterr()
    assert main(["data", "encode", *vae, *data, *device, "--processes", "2"]) == 0
    assert "2 views each" in capsys.readouterr().out
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("made/*.npy")}
    assert len(files) == 2 * 2
    train = ["train", "dalle", "--preset", "tiny", *vae, *data, *device]
    assert main([*train, "--out", str(tmp_path / "run"), "--max-bad", "1"]) == 0
    said = capsys.readouterr()
    assert "to be made" not in said.out
    assert "0 processes read data for each that trains" in said.err
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("made/*.npy")}
    assert after == files
    assert len(list((tmp_path / "cache").rglob("text/*/*.ends.npy"))) == 2
