"""Prompts from files, and prompts for terminals."""

from pathlib import Path

import pytest

from dalle.errors import InputError
from dalle.sampling.prompts import printable, read_prompts, without_surrogates


def write(folder: Path, data: bytes) -> Path:
    path = folder / "prompts.txt"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a red cube\nb\n", ["a red cube", "b"]),
        (b"\xef\xbb\xbfa\r\n\r\n b \r\n\n", ["a", "b"]),
        (b"a\rb", ["a", "b"]),
        ("שלום 😀\u2028x\x85y".encode(), ["שלום 😀\u2028x\x85y"]),
        (b"x" * 100_000, ["x" * 100_000]),
    ],
)
def test_one_prompt_a_line(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    assert read_prompts(write(tmp_path, data)) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb\n\xe9t\xe9\n", r"prompts\.txt:3: byte 0xe9 is not UTF-8"),
        (b"a\r\n\xff", r"prompts\.txt:2: byte 0xff"),
        (b"\xff\xfea\0", r"prompts\.txt:1: byte 0xff"),
        (b"", "has no prompt"),
        (b" \n\n", "has no prompt"),
    ],
)
def test_files_that_are_no_prompts_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path, data))


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: No such file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="directory"):
        read_prompts(tmp_path)


def test_utf8_is_read_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert read_prompts(write(tmp_path, "é".encode())) == ["é"]


def test_only_surrogates_are_replaced() -> None:
    assert without_surrogates("a\ud83d😀\udce9\0") == "a\ufffd😀\ufffd\0"


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a red cube", "a red cube"),
        ("a\nb\tc", "a b c"),
        ("\x1b[2Ja\x07", "\ufffd[2Ja\ufffd"),
        ("a\u202eb\u2066", "a\ufffdb\ufffd"),
        ("👩‍👧 é", "👩‍👧 é"),
        ("\ud800", "\ufffd"),
        ("x" * 81, "x" * 79 + "…"),
    ],
)
def test_what_is_shown_moves_no_cursor(prompt: str, shown: str) -> None:
    assert printable(prompt) == shown
    printable(prompt).encode()
