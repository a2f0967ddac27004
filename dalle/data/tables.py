"""Tables that name picture files and their captions: JSON lines, JSON, CSV, TSV."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dalle.data.captions import Captions, clean
from dalle.data.folder import file_of, path_of
from dalle.data.pictures import Pictures, Tally
from dalle.data.rows import IMAGE_COLUMNS, TEXT_COLUMNS, Row, missing, read_rows
from dalle.errors import ConfigError

FILE_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.json")
"""Tables that describe the folder they lie in."""
EXTENSIONS = frozenset({".jsonl", ".json", ".csv", ".tsv"})


class BadRow(Exception):
    """A row that cannot be used, and why."""


def open_table(
    file: Path,
    *,
    image: str | None = None,
    captions: tuple[str, ...] = (),
    keep_empty: bool = False,
    at_least: int | None = None,
) -> Pictures:
    """The pictures that the rows of a table name, in its order.

    A picture is named relative to the table's folder and lies inside it. Rows that cannot be used
    are counted, and the first of them named with their number.

    Args:
        file: an existing .jsonl, .json (a list of objects), .csv or .tsv.
        image: the column of file names; by default the first of `IMAGE_COLUMNS` in a row.
        captions: the columns of captions, strings or lists of strings, which are put together; by
            default all of `TEXT_COLUMNS` that a row has. Text that repeats is taken once.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: as in `Pictures`.

    Raises:
        DataError: no row can be used, or the file cannot be read.
        ConfigError: no row has a column that was asked for.
    """
    return pictures_of_rows(
        read_rows(file, joins=captions[-1:]),
        place=str(file),
        folder=file.parent,
        image=image,
        captions=captions,
        keep_empty=keep_empty,
        at_least=at_least,
    )


def pictures_of_rows(
    rows: Iterable[Row],
    *,
    place: str,
    folder: Path,
    image: str | None,
    captions: tuple[str, ...],
    keep_empty: bool,
    at_least: int | None,
) -> Pictures:
    """The pictures that rows name; see `open_table`."""
    tally = Tally(place, keep_empty=keep_empty)
    keys: list[str] = []
    found: list[tuple[str, ...]] = []
    absent = {name for name in (image, *captions) if name is not None}
    seen: dict[str, Any] = {}
    for where, row in rows:
        try:
            if isinstance(row, str):
                raise BadRow(row)
            absent -= row.keys()
            seen = row
            name = file_inside(folder, _name(row, image))
            texts = _captions(row, captions)
        except BadRow as problem:
            tally.add("bad_rows", f"{where}: {problem}")
            continue
        if tally.keeps(texts):
            keys.append(name)
            found.append(texts.texts if texts is not None else ())
    if absent and seen:
        raise ConfigError(f"{place!r}: {missing(sorted(absent), seen)}")
    return Pictures(
        keys=keys,
        captions=found,
        load=partial(file_of, folder),
        report=tally.report(len(keys)),
        at_least=at_least,
    )


def file_inside(folder: Path, name: str) -> str:
    """The name of a file, where it is a relative one that leads into `folder` to a file.

    Raises:
        BadRow: it is not.
    """
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or PureWindowsPath(name).drive or "\\" in name:
        raise BadRow(f"file_name {name!r} is not a relative path inside the folder")
    try:
        is_file = os.path.isfile(folder / path_of(name))
    except ValueError:  # a lone surrogate
        is_file = False
    if not is_file:
        raise BadRow(f"no file {name!r}")
    return name


def _name(row: dict[str, Any], column: str | None) -> str:
    columns = (column,) if column is not None else IMAGE_COLUMNS
    name = next((row[column] for column in columns if row.get(column)), None)
    if name is None:
        raise BadRow(missing(columns[:3], row))
    if not isinstance(name, str) or "\0" in name:
        raise BadRow(f"{name!r:.60} is no name of a picture file")
    return name


def _captions(row: dict[str, Any], columns: tuple[str, ...]) -> Captions | None:
    texts: list[str] = []
    fields = [name for name in columns or TEXT_COLUMNS if row.get(name) is not None]
    for name in fields:
        value = row[name]
        some = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in some):
            raise BadRow(f"{name} is neither a string nor a list of strings")
        texts += some
    return clean(dict.fromkeys(texts)) if fields else None
