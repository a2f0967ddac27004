"""Captions as text, whatever bytes they came as, and many of them in little memory."""

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

MAX_FILE_BYTES = 4 * 2**20

_LINE_END = re.compile("\r\n|\r|\n")
_UNWANTED = re.compile("[\x00\ud800-\udfff]")
_BLANK = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
_MARKS = (  # the mark of UTF-32 begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """The captions of one picture."""

    texts: tuple[str, ...]
    """Without the blank ones."""
    mended: bool = False
    """Whether characters had to be replaced (bytes that are no text, lone surrogates) or removed
    (NUL)."""


def clean(texts: Iterable[str], *, mended: bool = False) -> Captions:
    """Captions ready to be used: stripped, without NUL and lone surrogates, none of them blank.

    A text of nothing but spaces, control and formatting characters is blank. What is longer than
    a caption file may be is cut, which counts as mended. Nothing else is changed.
    """
    kept = []
    for text in texts:
        short = text[:MAX_FILE_BYTES]
        mend = _UNWANTED.sub(lambda found: "" if found[0] == "\0" else "\ufffd", short)
        mended = mended or mend != text
        mend = mend.strip()
        if any(unicodedata.category(letter) not in _BLANK for letter in mend):
            kept.append(mend)
    return Captions(texts=tuple(kept), mended=mended)


def encoding_of(data: bytes) -> str:
    """UTF-8 with or without a mark, or UTF-16 or UTF-32 where the mark at the beginning says so."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig")


def decode(data: bytes) -> Captions:
    """The captions of a text file, one per line.

    UTF-8 whatever the locale, with or without a byte order mark; UTF-16 and UTF-32 with one. Lines
    end at LF, CR LF or CR, and not at U+2028 and the like.
    """
    encoding = encoding_of(data)
    try:
        text, mended = data.decode(encoding), False
    except UnicodeDecodeError:
        text, mended = data.decode(encoding, errors="replace"), True
    return clean(_LINE_END.split(text), mended=mended)


def read_file(path: str) -> Captions:
    """The captions of the text file at `path`.

    Raises:
        OSError: it cannot be read, is no regular file, or is longer than 4 MiB.
    """
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(0, "not a regular file")
    if info.st_size > MAX_FILE_BYTES:
        raise OSError(0, f"{info.st_size} bytes; caption files have at most {MAX_FILE_BYTES}")
    with open(path, "rb") as file:
        return decode(file.read())


class PackedTexts(Sequence[str]):
    """Strings in two arrays.

    As objects, millions of them would be copied into every loader worker as their reference counts
    are touched.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        data, ends = bytearray(), [0]
        for text in texts:
            data += text.encode("utf-8", "surrogatepass")  # names of files may hold surrogates
            ends.append(len(data))
        self._data = np.frombuffer(bytes(data), dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index : index + 2]
        return self._data[start:end].tobytes().decode("utf-8", "surrogatepass")
