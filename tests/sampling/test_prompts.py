"""Prompts from files, and prompts for terminals."""

from pathlib import Path

import pytest

from dalle.errors import InputError
from dalle.sampling.prompts import PromptLine, printable, read_prompts, without_surrogates


def write(folder: Path, data: bytes, name: str = "prompts.txt") -> Path:
    path = folder / name
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
    found = read_prompts(write(tmp_path, data))
    assert found == [PromptLine(prompt=prompt) for prompt in expected]


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


def test_json_lines_say_how_many_and_which(tmp_path: Path) -> None:
    data = b'{"prompt": "a cube", "num_samples": 3}\n\n{"prompt": " "}\n{"prompt": "b", "seed": 7}'
    assert read_prompts(write(tmp_path, data, "prompts.jsonl")) == [
        PromptLine(prompt="a cube", num_samples=3),
        PromptLine(prompt=" "),
        PromptLine(prompt="b", seed=7),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a cube", "Expecting value"),
        ('{"prompt": 3}', "prompt is 3"),
        ('{"num_samples": 3}', "prompt is missing"),
        ('{"prompt": "a", "samples": 3}', "samples is not a field"),
        ('{"prompt": "a", "num_samples": 2.5}', "num_samples is 2.5"),
        ('["a"]', "expected an object"),
        ("[" * 100_000, "is no prompt"),
    ],
)
def test_json_lines_that_are_no_prompts_are_refused(
    tmp_path: Path, line: str, message: str
) -> None:
    data = f'{{"prompt": "a"}}\n{line}\n'.encode()
    with pytest.raises(InputError, match=rf"prompts\.jsonl:2.*{message}"):
        read_prompts(write(tmp_path, data, "prompts.jsonl"))


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: No such file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="directory"):
        read_prompts(tmp_path)


def test_utf8_is_read_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert read_prompts(write(tmp_path, "é".encode())) == [PromptLine(prompt="é")]


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
