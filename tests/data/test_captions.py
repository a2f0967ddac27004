"""Caption files of every sort become clean text, or nothing; none ends a run."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalle.data.captions import Captions, PackedTexts, clean, decode, read_file

TEXTS: dict[str, tuple[bytes, tuple[str, ...], bool]] = {
    "control": (b"a good caption\n", ("a good caption",), False),
    "empty": (b"", (), False),
    "spaces": (b"   \t  ", (), False),
    "newlines": (b"\n\n\r\n\n", (), False),
    "unicode spaces": ("\u00a0\u2003\u3000\u200b\ufeff\n".encode(), (), False),
    "invalid": (b"a dog \xff\xfe\x80 on a sofa\n", ("a dog \ufffd\ufffd\ufffd on a sofa",), True),
    "latin-1": ("un café".encode("latin-1"), ("un caf\ufffd",), True),
    "utf-16 le": ("\ufeffa cat 🐈".encode("utf-16-le"), ("a cat 🐈",), False),
    "utf-16 be": ("\ufeffa cat 🐈".encode("utf-16-be"), ("a cat 🐈",), False),
    "utf-16 cut": ("\ufeffa cat".encode("utf-16-le") + b"x", ("a cat\ufffd",), True),
    "utf-32": ("\ufeffa cat".encode("utf-32-le"), ("a cat",), False),
    "utf-16 without mark": ("a cat".encode("utf-16-le"), ("a cat",), True),
    "utf-8 mark": (b"\xef\xbb\xbfa cat on a mat\n", ("a cat on a mat",), False),
    "nul": (b"a red\0 ball\0\n", ("a red ball",), True),
    "cr lf": (b"first\r\nsecond\r\n\r\n\r\n", ("first", "second"), False),
    "cr": (b"first caption\rsecond caption\r", ("first caption", "second caption"), False),
    "blank first": (b"\n\n  a caption  \n", ("a caption",), False),
    "controls": (
        "a \x1b[31mred\x1b[0m \x07 car\twith \u2028 \x0b a \x85 separator\n".encode(),
        ("a \x1b[31mred\x1b[0m \x07 car\twith \u2028 \x0b a \x85 separator",),
        False,
    ),
    "cesu-8": (b"a cat \xed\xa0\xbd\n", ("a cat \ufffd\ufffd\ufffd",), True),
    "html": (b"a &quot;red&quot; <b>car</b>\n", ("a &quot;red&quot; <b>car</b>",), False),
    "null": (b"null\n", ("null",), False),
    "special": (b"<|endoftext|> <pad>\n", ("<|endoftext|> <pad>",), False),
    "quotes": (b'says "STOP, now", isn\'t it?\n', ('says "STOP, now", isn\'t it?',), False),
    "combining": ("cafe\u0301 \ufb01\n".encode(), ("cafe\u0301 \ufb01",), False),
    "joined": ("👩🏽\u200d🚀 \u202eabc\u202c\n".encode(), ("👩🏽\u200d🚀 \u202eabc\u202c",), False),
    "long": (b"a very long caption, " * 5000, (("a very long caption, " * 5000).strip(),), False),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_files_of_every_sort(name: str, tmp_path: Path) -> None:
    content, texts, mended = TEXTS[name]
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert read_file(str(path)) == Captions(texts=texts, mended=mended)


def test_ten_thousand_lines_are_ten_thousand_captions() -> None:
    lines = [f"caption number {i}" for i in range(10_000)]
    assert decode("\n".join(lines).encode()).texts == tuple(lines)


@given(st.binary(max_size=200))
def test_any_bytes_become_text_that_utf_8_can_carry(data: bytes) -> None:
    for text in decode(data).texts:
        assert text == text.strip() != ""
        assert "\0" not in text
        text.encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n")))
def test_text_is_only_stripped(text: str) -> None:
    texts = clean([text]).texts
    assert texts in ((text.strip(),), ())
    if any(letter.isalnum() for letter in text):
        assert texts


def test_surrogates_and_nul_of_tables_are_mended() -> None:
    assert clean(["a \ud83d b", "c"]) == Captions(texts=("a \ufffd b", "c"), mended=True)
    assert clean(["\0"]) == Captions(texts=(), mended=True)


def test_files_that_cannot_be_captions_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "large.txt").write_bytes(b" " * (4 * 2**20 + 1))
    for name, reason in (
        ("pipe.txt", "not a regular file"),
        ("large.txt", "4194305 bytes; caption files have at most 4194304"),
        ("missing.txt", "No such file"),
    ):
        with pytest.raises(OSError, match=reason):
            read_file(str(tmp_path / name))


@given(st.lists(st.text()))
def test_packed_texts_are_the_texts(texts: list[str]) -> None:
    packed = PackedTexts(texts)
    assert list(packed) == texts
    assert len(packed) == len(texts)
    for index in (-1, len(texts)):
        with pytest.raises(IndexError):
            packed[index]


def test_a_caption_is_no_longer_than_a_file_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalle.data.captions.MAX_FILE_BYTES", 10)
    assert clean(["a" * 10, "b" * 11]) == Captions(texts=("a" * 10, "b" * 10), mended=True)
    assert not clean(["a" * 10]).mended
