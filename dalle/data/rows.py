"""Rows of tables: JSON lines, a JSON list, and comma- or tab-separated text."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dalle.data.captions import MAX_FILE_BYTES, encoding_of
from dalle.errors import DataError
from dalle.picture_files import EXTENSIONS

MAX_LINE_BYTES = 4 * 2**20
MAX_JSON_BYTES = 2 * 2**30
"""Of a whole file that has to be read at once."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}

IMAGE_COLUMNS = ("file_name", "image", "path", "file", "filename", "filepath", "image_path", "img")
"""Tried in this order where no column is named."""
TEXT_COLUMNS = ("text", "caption", "captions", "title", "prompt", "description")
"""Those of a row are all taken where no column is named."""

Row = tuple[str, dict[str, Any] | str]
"""Where it is ("table.csv:3"), and its fields, or what is wrong with it."""

_NOT_AN_OBJECT = 'expected an object with "file_name" and "text" (or a list "captions")'


def read_rows(file: Path, *, joins: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows of a table, told apart by the extension: .jsonl, .json, .csv or .tsv.

    A row that cannot be used is what is wrong with it in words. A .csv or .tsv whose first line
    names a picture file has no header: its columns are file_name and text. Where the caption is
    the last column, further cells belong to it.

    Args:
        file: an existing file.
        joins: columns that take further cells, where they are the last; empty for the usual names
            of captions.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        if file.suffix.lower() in DELIMITERS:
            yield from _separated(file, joins)
        elif file.suffix.lower() == ".json":
            yield from list_rows(file.name, read_json(file))
        else:
            yield from _lines(file)
    except OSError as error:
        raise DataError(f"cannot read {str(file)!r}: {error.strerror}") from None


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DataError: it is not JSON, not UTF-8, or too long.
    """
    try:
        size = file.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataError(f"{str(file)!r} has {size} bytes; JSON lines (.jsonl) have no limit")
        data = file.read_bytes()
        return json.loads(data.decode(encoding_of(data)))
    except OSError as error:
        raise DataError(f"cannot read {str(file)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{str(file)!r} is not {error.encoding.upper()}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(file)!r} is not JSON: {error}") from None


def list_rows(name: str, value: Any) -> Iterator[Row]:
    """The rows of a JSON list of objects.

    Raises:
        DataError: it is no list.
    """
    if not isinstance(value, list):
        raise DataError(
            f"{name!r} holds no list of objects; expected one, or the captions of COCO "
            '("images" and "annotations")'
        )
    for number, row in enumerate(value, start=1):
        yield f"{name}[{number}]", row if isinstance(row, dict) else _NOT_AN_OBJECT


def _lines(file: Path) -> Iterator[Row]:
    """Of lines that are too long only the beginning is read; blank ones are no rows."""
    with file.open("rb") as stream:
        readline, number = _reader_of_lines(stream), 0
        while line := readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield f"{file.name}:{number}", _parse(line)
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = readline(MAX_LINE_BYTES + 1)


def _reader_of_lines(stream: io.BufferedReader) -> Callable[[int], bytes]:
    """Lines in UTF-8, also where a mark says that they are in UTF-16 or UTF-32."""
    encoding = encoding_of(stream.read(4))
    stream.seek(0)
    if encoding == "utf-8-sig":
        return stream.readline
    text = io.TextIOWrapper(stream, encoding, errors="replace", newline="\n")
    return lambda most: text.readline(most).encode()


def _parse(line: bytes) -> dict[str, Any] | str:
    if len(line) > MAX_LINE_BYTES:
        return f"longer than {MAX_LINE_BYTES} bytes"
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return row if isinstance(row, dict) else _NOT_AN_OBJECT


def _separated(file: Path, joins: tuple[str, ...]) -> Iterator[Row]:
    delimiter = DELIMITERS[file.suffix.lower()]
    with file.open("rb") as beginning:
        encoding = encoding_of(beginning.read(4))
    with file.open(encoding=encoding, errors="replace", newline="") as stream:
        # Between tabs a quote is mostly just a quote, and a lone one would swallow what follows.
        lines = _short_lines(stream)
        if delimiter == ",":
            reader = csv.reader(lines)
        else:
            reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        header: list[str] | None = None
        for cells in _cells(reader):
            where = f"{file.name}:{reader.line_num}"
            if isinstance(cells, str):
                yield where, cells
                continue
            if delimiter == "\t":
                cells = [_unquoted(cell) for cell in cells]
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                if not any(_names_a_picture(cell) for cell in cells):
                    header = [cell.strip() for cell in cells]
                    continue
                header = ["file_name", "text"]
            yield where, _fields(header, cells, delimiter, joins)


def _cells(reader: Any) -> Iterator[list[str] | str]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"not readable: {error}"


def _unquoted(cell: str) -> str:
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if whole else cell


def _short_lines(stream: io.TextIOBase) -> Iterator[str]:
    """Lines, cut where they are too long for a caption: an endless one must not fill the memory."""
    while line := stream.readline(MAX_FILE_BYTES):
        yield line.replace("\0", "")


def _names_a_picture(cell: str) -> bool:
    return any(cell.strip().lower().endswith(extension) for extension in EXTENSIONS)


def _fields(
    header: list[str], cells: list[str], delimiter: str, joins: tuple[str, ...]
) -> dict[str, Any] | str:
    if len(cells) > len(header) > 1:
        last = header[-1]
        if last not in (joins or TEXT_COLUMNS):
            return _wrong_number(cells, header)
        rest = delimiter.join(cells[len(header) - 1 :])
        cells = [*cells[: len(header) - 1], rest]
    if len(cells) < len(header):
        return _wrong_number(cells, header)
    return dict(zip(header, cells, strict=False))


def _wrong_number(cells: list[str], header: list[str]) -> str:
    return f"{len(cells)} cells; expected {len(header)}: {', '.join(map(repr, header))}"


def missing(columns: Iterable[str], row: dict[str, Any]) -> str:
    """What is wrong with a row that has none of the columns."""
    shown = ", ".join(map(repr, list(row)[:12]))
    return f"no column {' or '.join(columns)}; it has: {shown or 'nothing'}"
