"""Image data sets of the `datasets` package, in a local folder or on the hub."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalle.data.captions import Captions
from dalle.data.hub_card import check_card
from dalle.data.hub_columns import columns_of, texts_of
from dalle.data.pictures import Pictures, Tally
from dalle.data.tables import BadRow, file_inside
from dalle.errors import ConfigError, DataError

if TYPE_CHECKING:
    import datasets

SAVED_MARKS = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a folder."""


def open_dataset(
    name: str | Path,
    *,
    split: str = "train",
    config: str | None = None,
    image_column: str | None = None,
    caption_columns: tuple[str, ...] = (),
    keep_empty: bool = False,
    at_least: int | None = None,
) -> Pictures:
    """The pictures of a data set, decoded by us under our own guard.

    Args:
        name: a .parquet file, a folder written by `save_to_disk`, another local folder that
            `datasets` can load (imagefolder, parquet), or the name of a data set on the hub, which
            is downloaded.
        split: which part; a data set with a single part needs none.
        config: the configuration, where there are several.
        image_column: pictures, their files as bytes, or names of files beside the table; by default
            the only one whose feature is `Image`, else the only one of bytes, else the first of
            `rows.IMAGE_COLUMNS`.
        caption_columns: strings or lists of strings, which are put together, text that repeats
            once; by default the only column, or the first of
            `hub_columns.CAPTION_COLUMNS`.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: as in `Pictures`.

    Raises:
        DataError: it cannot be loaded, or there is nothing usable in it.
        ConfigError: the columns are not those of a data set of pictures, or have to be chosen.
    """
    place = str(name)
    data = split_of(load(place, config), split, place)
    image, texts = columns_of(data, place, image_column, caption_columns)
    tally = Tally(place, keep_empty=keep_empty)
    rows: list[int] = []
    captions: list[tuple[str, ...]] = []
    for row, found in enumerate(_captions(data, texts)):
        if tally.keeps(found):
            rows.append(row)
            captions.append(found.texts if found is not None else ())
    return Pictures(
        keys=map(str, rows),
        captions=captions,
        load=_Images(data, image, folder_of(place)),
        report=tally.report(len(rows)),
        at_least=at_least,
    )


class _Images:
    """The files of a column, undecoded, by row (= key)."""

    def __init__(self, data: "datasets.Dataset", column: str, folder: Path) -> None:
        self._column = column
        self._folder = folder
        self._data = undecoded(data.select_columns([column]), column)

    def __call__(self, _: int, key: str) -> Path | bytes:
        try:
            value = self._data[int(key)][self._column]
        except Exception as error:  # whatever a damaged table is met with
            raise DataError(f"row {key} cannot be read: {error}") from None
        return picture_of(value, self._folder, key)

    def mark(self, index: int) -> str:
        """What changes when the table does."""
        return f"{self._data._fingerprint}/{index}"


def undecoded(data: Any, column: str) -> Any:
    """The data set with the files of a column of pictures as they are."""
    import datasets

    if hasattr(data, "with_format"):
        data = data.with_format(None)
    if isinstance(data.features[column], datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    return data


def picture_of(value: Any, folder: Path, key: str) -> Path | bytes:
    """The file in a cell: bytes, bytes and a path, or a name inside `folder`.

    Raises:
        DataError: there is none.
    """
    if isinstance(value, dict):
        if value.get("bytes"):
            return bytes(value["bytes"])
        if value.get("path"):
            return _allowed(folder, str(value["path"]), key)
    elif isinstance(value, bytes) and value:
        return value
    elif isinstance(value, str) and value:
        try:
            return folder / file_inside(folder, value)
        except BadRow as problem:
            raise DataError(f"row {key}: {problem}") from None
    raise DataError(f"row {key} has no picture")


def _allowed(folder: Path, name: str, key: str) -> Path:
    """A file of the data set's own folder, or one that `datasets` has unpacked."""
    import datasets

    path = Path(os.path.abspath(folder / name))
    roots = (folder, datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE)
    if not any(path.is_relative_to(os.path.abspath(root)) for root in roots):
        raise DataError(f"row {key}: {name!r} is outside of {str(folder)!r}")
    return path


def folder_of(place: str) -> Path:
    """What names of files in a data set are relative to."""
    path = Path(place)
    return path.parent if path.is_file() else path


def load(place: str, config: str | None, *, streaming: bool = False) -> Any:
    """Whatever `datasets` makes of a name: one data set, or several by the name of their split.

    Raises:
        DataError: it cannot be loaded.
    """
    import datasets

    try:
        if any((Path(place) / mark).is_file() for mark in SAVED_MARKS):
            saved = datasets.load_from_disk(place)
            return _streamed(saved) if streaming else saved
        if Path(place).is_file():
            _check_rows(place)
            return datasets.load_dataset("parquet", data_files=place, streaming=streaming)
        check_card(Path(place))
        return datasets.load_dataset(place, config, streaming=streaming)
    except Exception as error:  # network, formats, names: the package has no common ancestor
        # What it says first of a damaged file is that there was an error.
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"`datasets` cannot load {place!r}: {reason[0]}") from None


def _check_rows(place: str) -> None:
    """`datasets` stumbles over a table without rows, and does not say so."""
    from pyarrow import parquet

    if parquet.read_metadata(place).num_rows == 0:
        raise ValueError("it has no rows")


def _streamed(saved: Any) -> Any:
    if hasattr(saved, "to_iterable_dataset"):
        return saved.to_iterable_dataset()
    return {name: part.to_iterable_dataset() for name, part in saved.items()}


def split_of(data: Any, split: str, place: str) -> Any:
    """The part of that name, or the only one.

    Raises:
        ConfigError: there is none of that name.
    """
    import datasets

    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        return data
    if split in data:
        return data[split]
    if len(data) == 1:
        return next(iter(data.values()))
    raise ConfigError(f"{place!r} has no split {split!r}; it has: {', '.join(data)}")


def _captions(data: "datasets.Dataset", columns: tuple[str, ...]) -> Iterator[Captions | None]:
    if not columns:
        yield from (None for _ in range(len(data)))
        return
    for batch in data.select_columns(list(columns)).with_format(None).iter(batch_size=1000):
        for row in zip(*(batch[name] for name in columns), strict=True):
            yield texts_of(row)
