"""Folders of pictures and text files: the right pairs, whatever else lies about."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dalle.data.folder import open_folder
from dalle.data.pictures import Pictures
from dalle.errors import DataError


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".webp": "WEBP", ".gif": "GIF"}.get(path.suffix.lower(), "PNG")
    Image.new("RGB", (6, 4), colour).save(path, kind)


def pair(path: Path, caption: str, colour: str = "red") -> None:
    picture(path, colour)
    path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def pairs(source: Pictures) -> dict[str, tuple[str, ...]]:
    return {source.key(i): source.captions(i) for i in range(len(source))}


def test_pictures_are_paired_with_the_lines_beside_them(tmp_path: Path) -> None:
    pair(tmp_path / "a.png", "one\ntwo\n")
    pair(tmp_path / "sub" / "deep" / "a.jpg", "three", "blue")
    source = open_folder(tmp_path)
    assert pairs(source) == {"a.png": ("one", "two"), "sub/deep/a.jpg": ("three",)}
    sample = source[1]
    assert (sample.key, sample.captions) == ("sub/deep/a.jpg", ("three",))
    assert (sample.image.mode, sample.image.size) == ("RGB", (6, 4))
    assert sample.image.getpixel((3, 2)) == (0, 0, 254)
    assert source.report.line() == f"2 pictures in {str(tmp_path)!r}"
    for index in (-1, 2):
        with pytest.raises(IndexError):
            source[index]


def test_same_names_in_two_folders_are_two_pairs(tmp_path: Path) -> None:
    for folder, colour in (("a", "red"), ("b", "lime")):
        pair(tmp_path / folder / "same.png", f"caption of {folder}", colour)
    source = open_folder(tmp_path)
    found = [(source[i].captions, source[i].image.getpixel((0, 0))) for i in range(2)]
    assert found == [(("caption of a",), (255, 0, 0)), (("caption of b",), (0, 255, 0))]


def test_names_of_every_sort(tmp_path: Path) -> None:
    odd = "spaces & ünïcode 日本 [x]*.png"
    pair(tmp_path / odd, "odd name")
    pair(tmp_path / "two.dots.v1.0.png", "dots")
    picture(tmp_path / "cafe\u0301.png")
    (tmp_path / "caf\u00e9.txt").write_text("composed")
    picture(tmp_path / "UPPER.JPG")
    (tmp_path / "UPPER.TXT").write_text("capitals")
    for extension in ("gif", "webp", "jpeg"):
        picture(tmp_path / f"many.{extension}")
    (tmp_path / "many.txt").write_text("shared")
    assert pairs(open_folder(tmp_path)) == {
        odd: ("odd name",),
        "two.dots.v1.0.png": ("dots",),
        "cafe\u0301.png": ("composed",),
        "UPPER.JPG": ("capitals",),
        "many.gif": ("shared",),
        "many.jpeg": ("shared",),
        "many.webp": ("shared",),
    }


def test_an_exact_name_goes_before_a_composed_one(tmp_path: Path) -> None:
    for name in ("cafe\u0301", "caf\u00e9"):
        pair(tmp_path / f"{name}.png", f"{len(name)} letters")
    assert sorted(pairs(open_folder(tmp_path)).values()) == [("4 letters",), ("5 letters",)]


def test_what_is_no_pair_is_left_out_and_counted(tmp_path: Path) -> None:
    pair(tmp_path / "good.png", "good")
    picture(tmp_path / "no-caption.png")
    picture(tmp_path / "CASE.png")
    (tmp_path / "case.txt").write_text("other case")
    (tmp_path / "no-image.txt").write_text("no image")
    pair(tmp_path / "empty.png", " \n\u200b\n")
    (tmp_path / "broken.txt").write_bytes(b"caf\xe9")
    picture(tmp_path / "broken.png")
    for name in (".hidden.png", ".hidden.txt", "._good.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0")
    pair(tmp_path / ".cache" / "a.png", "hidden folder")
    for name in ("a.svg", "a.TIFF"):
        (tmp_path / name).write_bytes(b"\0")
    source = open_folder(tmp_path)
    assert pairs(source) == {"good.png": ("good",), "broken.png": ("caf\ufffd",)}
    report = source.report
    counts = (report.no_caption, report.no_picture, report.empty, report.mended)
    assert counts == (2, 2, 1, 1)
    assert report.other_kinds == 2
    line = report.line()
    assert "\n" not in line
    for part in (
        "2 pictures in",
        "2 pictures without a caption (left out)",
        "1 pictures with an empty caption (left out)",
        "2 captions without a picture",
        "1 captions with damaged characters (mended)",
        "first problem: 'a.TIFF': pictures of this format are not read",
    ):
        assert part in line


def test_pictures_without_captions_are_kept_when_asked(tmp_path: Path) -> None:
    pair(tmp_path / "a.png", "a")
    picture(tmp_path / "none.png")
    pair(tmp_path / "empty.png", "\n")
    source = open_folder(tmp_path, keep_empty=True)
    assert pairs(source) == {"a.png": ("a",), "empty.png": (), "none.png": ()}
    assert "1 pictures without a caption (used without a caption)" in source.report.line()


def test_links_pipes_and_circles_do_no_harm(tmp_path: Path) -> None:
    pair(tmp_path / "good.png", "good")
    for name, target in (
        ("loop-a", "loop-b.png"),
        ("loop-b", "loop-a.png"),
        ("dangling", "nowhere.png"),
        ("linked", "good.png"),
    ):
        (tmp_path / f"{name}.png").symlink_to(target)
        (tmp_path / f"{name}.txt").write_text(name)
    pair(tmp_path / "tree" / "deep.png", "deep")
    (tmp_path / "tree" / "up").symlink_to("..")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.txt").write_text("a folder")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.txt")
    picture(tmp_path / "piped.png")
    (tmp_path / "piped.txt").symlink_to("pipe.txt")
    source = open_folder(tmp_path)
    assert pairs(source) == {
        "good.png": ("good",),
        "linked.png": ("linked",),
        "tree/deep.png": ("deep",),
    }
    assert source[1].image.size == (6, 4)
    assert source.report.linked_folders == 1
    assert source.report.unreadable == 6
    assert all(len(problem.splitlines()) == 1 for problem in source.report.problems)


def test_what_may_not_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As root nothing is unreadable, so the system's refusal is put on.
    for name in ("a.png", "b.png", "closed/c.png"):
        pair(tmp_path / name, "caption")
    scandir, stat = os.scandir, os.stat

    def no_scandir(path: str) -> object:
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    def no_stat(path: str, **options: object) -> os.stat_result:
        if str(path).endswith("b.txt"):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "scandir", no_scandir)
    monkeypatch.setattr(os, "stat", no_stat)
    source = open_folder(tmp_path)
    assert pairs(source) == {"a.png": ("caption",)}
    assert source.report.unreadable == 2
    assert set(source.report.problems) == {
        "'closed/': Permission denied",
        "'b.txt': Permission denied",
    }


def test_damaged_pictures_are_named(tmp_path: Path) -> None:
    pair(tmp_path / "good.png", "good")
    pair(tmp_path / "sub" / "bad.png", "bad")
    (tmp_path / "sub" / "bad.png").write_bytes(b"<html>")
    source = open_folder(tmp_path)
    with pytest.raises(DataError, match=r"sub/bad\.png' is no JPEG") as caught:
        source[1]
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "good.png").unlink()
    with pytest.raises(DataError, match=r"good\.png' cannot be read: No such file"):
        source[0]


def test_an_empty_folder_says_what_is_supported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image-text pairs found in .*\.txt captions"):
        open_folder(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"1 pictures without a caption"):
        open_folder(tmp_path)


def test_large_jpegs_are_decoded_at_a_fraction(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("a")
    assert open_folder(tmp_path, at_least=100)[0].image.size == (160, 120)
    assert open_folder(tmp_path)[0].image.size == (640, 480)


def test_files_are_utf_8_in_every_locale(tmp_path: Path) -> None:
    name, word = "日本-cafe\u0301.png", "ключ"
    picture(tmp_path / name)
    (tmp_path / "日本-caf\u00e9.txt").write_text("een kat — قطة 🐈\n", encoding="utf-8")
    table = tmp_path / "metadata.jsonl"
    row = {"file_name": name, "text": word}
    table.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    script = f"""
import sys; from pathlib import Path
from dalle.data.folder import open_folder
from dalle.data.tables import open_table
from dalle.tokenizers.text import TextTokenizer
assert sys.getfilesystemencoding() == "ascii"
root = Path(sys.argv[1])
for source in (open_folder(root), open_table(root / "metadata.jsonl")):
    sample = source[0]
    print(ascii((sample.key, sample.captions, sample.image.size)))
TextTokenizer.train(source.captions(0)).save(root / "tokenizer.json")
loaded = TextTokenizer.load(root / "tokenizer.json")
print(ascii(loaded.decode(loaded.encode({word!a}))))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == [
        ascii((name, ("een kat — قطة 🐈",), (6, 4))),
        ascii((name, (word,), (6, 4))),
        ascii(word),
    ]
