"""A folder of pictures described by the lines of a metadata.jsonl."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dalle.data.captions import Captions, clean
from dalle.data.folder import file_of, path_of
from dalle.data.pictures import Pictures, Tally
from dalle.errors import DataError

FILE_NAME = "metadata.jsonl"
MAX_LINE_BYTES = 4 * 2**20
_EXPECTED = 'expected an object with "file_name" and "text" (or a list "captions")'


class _BadRow(Exception):
    """A line that cannot be used, and why."""


def open_jsonl(file: Path, *, keep_empty: bool = False, at_least: int | None = None) -> Pictures:
    """The pictures that the lines of a file name, in its order.

    A line is an object with `file_name`, relative to the file's folder and inside it, and the
    captions: a string or a list of strings under `text`, `caption` or `captions`; of several,
    all, without repetition. Other fields are ignored. Lines that cannot be used are counted, and
    the first of them named with their number.

    Args:
        file: an existing file.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: as in `Pictures`.

    Raises:
        DataError: no line can be used, or the file cannot be read.
    """
    tally = Tally(str(file), keep_empty=keep_empty)
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    for number, line in _lines(file):
        try:
            row = _parse(line)
            name = _file_name(row, file.parent)
            found = _captions(row)
        except _BadRow as problem:
            tally.add("bad_rows", f"{file.name}:{number}: {problem}")
            continue
        if tally.keeps(found):
            keys.append(name)
            captions.append(found.texts if found is not None else ())
    return Pictures(
        keys=keys,
        captions=captions,
        load=partial(file_of, file.parent),
        report=tally.report(len(keys)),
        at_least=at_least,
    )


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of each that is not blank; of too long ones only the beginning is read."""
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {str(file)!r}: {error.strerror}") from None


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _BadRow(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise _BadRow("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise _BadRow(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise _BadRow(_EXPECTED)
    return row


def _file_name(row: dict[str, Any], folder: Path) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise _BadRow(_EXPECTED)
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or PureWindowsPath(name).drive or "\\" in name:
        raise _BadRow(f"file_name {name!r} is not a relative path inside the folder")
    try:
        is_file = os.path.isfile(folder / path_of(name))
    except ValueError:  # a lone surrogate
        is_file = False
    if not is_file:
        raise _BadRow(f"no file {name!r}")
    return name


def _captions(row: dict[str, Any]) -> Captions | None:
    texts: list[str] = []
    fields = [name for name in ("text", "caption", "captions") if row.get(name) is not None]
    for name in fields:
        value = row[name]
        some = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in some):
            raise _BadRow(f"{name} is neither a string nor a list of strings")
        texts += some
    return clean(dict.fromkeys(texts)) if fields else None
