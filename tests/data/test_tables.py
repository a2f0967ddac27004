"""Rows of tables: good ones load, bad ones are named with their number."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dalle.data.pictures import Pictures
from dalle.data.tables import open_table
from dalle.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        Image.new("RGB", (6, 4), (i, 0, 0)).save(tmp_path / f"img{i}.png")
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (6, 4), "blue").save(tmp_path / "sub" / "ünïcode.png")
    return tmp_path


def write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "metadata.jsonl"
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    return path


def good(i: int) -> str:
    return json.dumps({"file_name": f"img{i}.png", "text": f"caption {i}"})


def rows(source: Pictures) -> list[tuple[str, tuple[str, ...]]]:
    return [(source.key(i), source.captions(i)) for i in range(len(source))]


def test_lines_name_pictures_and_captions(folder: Path) -> None:
    path = write(
        folder,
        good(1),
        '{"file_name": "sub/ünïcode.png", "text": "one", "captions": ["one", "two"], "style": 3}',
        '{"file_name": "img0.png", "caption": " a ", "captions": null}',
        '{"file_name": "img2.png", "text": ["x", "y"]}',
    )
    source = open_table(path)
    assert rows(source) == [
        ("img1.png", ("caption 1",)),
        ("sub/ünïcode.png", ("one", "two")),
        ("img0.png", ("a",)),
        ("img2.png", ("x", "y")),
    ]
    assert source[0].image.getpixel((0, 0)) == (1, 0, 0)
    assert source.report.line() == f"4 pictures in {str(path)!r}"


def test_bad_lines_are_named_and_passed_over(folder: Path) -> None:
    path = write(
        folder,
        good(0),
        '{"file_name": "img1.png", "text": "cut off in the mid',
        good(2),
        "",
        '{"text": "no file name"}',
        '{"file_name": "missing.png", "text": "no such file"}',
        '{"file_name": "img0.png", "text": null}',
        '{"file_name": "img0.png", "text": 42}',
        '{"file_name": "img0.png"}',
        '{"file_name": "../secret.png", "text": "outside"}',
        '{"file_name": "/etc/hostname", "text": "absolute"}',
        '{"file_name": "sub/../img0.png", "text": "around"}',
        '{"file_name": "C:\\\\img0.png", "text": "windows"}',
        '{"file_name": "sub", "text": "a folder"}',
        '{"file_name": "img\\u00000.png", "text": "nul"}',
        '{"file_name": "img\\ud83d.png", "text": "surrogate"}',
        "[1, 2, 3]",
        '"just a string"',
        "NaN",
        "[" * 100_000,
        b'{"file_name": "img1.png", "text": "caf\xe9"}',
        '{"file_name": "img1.png", "text": "lone surrogate \\ud83d"}',
        '{"file_name": "img1.png", "text": ["a", 1]}',
        '{"file_name": "img1.png", "text": "a", "text": "repeated key"}',
        '{"file_name": "img2.png", "text": "no newline at the end"}',
    )
    source = open_table(path)
    assert rows(source) == [
        ("img0.png", ("caption 0",)),
        ("img2.png", ("caption 2",)),
        ("img1.png", ("lone surrogate \ufffd",)),
        ("img1.png", ("repeated key",)),
        ("img2.png", ("no newline at the end",)),
    ]
    report = source.report
    assert (report.bad_rows, report.no_caption, report.mended) == (17, 2, 1)
    told = [problem.split(": ")[0] for problem in report.problems]
    bad = [2, 5, 6, 8, *range(10, 22), 23]
    assert told == [f"metadata.jsonl:{number}" for number in bad]
    assert "metadata.jsonl:2: not JSON" in report.line()
    assert all(problem.isprintable() for problem in report.problems)


def test_marks_and_windows_line_ends_are_no_content(folder: Path) -> None:
    path = write(folder, b"\xef\xbb\xbf" + good(0).encode() + b"\r", good(1) + "\r", "")
    assert rows(open_table(path)) == [("img0.png", ("caption 0",)), ("img1.png", ("caption 1",))]


def test_blank_captions_are_left_out_or_kept(folder: Path) -> None:
    lines = ['{"file_name": "img0.png", "text": ""}', '{"file_name": "img1.png"}', good(2)]
    source = open_table(write(folder, *lines))
    assert rows(source) == [("img2.png", ("caption 2",))]
    assert (source.report.empty, source.report.no_caption) == (1, 1)
    kept = open_table(write(folder, *lines), keep_empty=True)
    assert rows(kept) == [("img0.png", ()), ("img1.png", ()), ("img2.png", ("caption 2",))]


def test_endless_lines_are_passed_over(folder: Path) -> None:
    path = write(folder, '{"text": "' + "x" * (9 * 2**20), good(1))
    source = open_table(path)
    assert rows(source) == [("img1.png", ("caption 1",))]
    assert source.report.problems == ("metadata.jsonl:1: longer than 4194304 bytes",)


def test_nothing_usable_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no image-text pairs found in .*metadata\.jsonl"):
        open_table(write(folder))
    with pytest.raises(DataError, match=r"2 unusable rows; first problem: metadata\.jsonl:1"):
        open_table(write(folder, "[" + good(0) + ",", good(1) + "]"))
    with pytest.raises(DataError, match=r"cannot read .*: No such file"):
        open_table(folder / "other.jsonl")


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_tables_may_be_unicode_text_of_windows(folder: Path, kind: str, encoding: str) -> None:
    text = {
        "csv": "file_name,text\nimg0.png,grün\n",
        "tsv": "file_name\ttext\nimg0.png\tgrün\n",
        "json": '[{"file_name": "img0.png", "text": "grün"}]',
        "jsonl": '{"file_name": "img0.png",\r\n\n{"file_name": "img0.png", "text": "grün"}\n',
    }[kind]
    (folder / f"rows.{kind}").write_text(text, encoding=encoding)
    assert rows(open_table(folder / f"rows.{kind}")) == [("img0.png", ("grün",))]
