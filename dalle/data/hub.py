"""Image data sets of the `datasets` package, in a local folder or on the hub."""

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from dalle.data.captions import Captions, clean
from dalle.data.pictures import Pictures, Tally
from dalle.errors import ConfigError, DataError

if TYPE_CHECKING:
    import datasets

CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "prompt", "prompts", "sentences")
"""Preferred, in this order, where several columns hold text."""
CARDS = ("README.md", ".huggingface.yaml")
SAVED_MARKS = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a folder."""


def open_dataset(
    name: str | Path,
    *,
    split: str = "train",
    config: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    keep_empty: bool = False,
    at_least: int | None = None,
) -> Pictures:
    """The pictures of a data set, decoded by us under our own guard.

    Args:
        name: a folder written by `save_to_disk`, another local folder that `datasets` can load
            (imagefolder, parquet), or the name of a data set on the hub, which is downloaded.
        split: which part; a data set with a single part needs none.
        config: the configuration, where there are several.
        image_column: by default the only one whose feature is `Image`.
        caption_column: strings or lists of strings; by default the only one, or the first of
            `CAPTION_COLUMNS`.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: as in `Pictures`.

    Raises:
        DataError: it cannot be loaded, or there is nothing usable in it.
        ConfigError: the columns are not those of a data set of pictures, or have to be chosen.
    """
    place = str(name)
    data = _split(_load(place, config), split, place)
    image, caption = _columns(data, place, image_column, caption_column)
    tally = Tally(place, keep_empty=keep_empty)
    rows: list[int] = []
    captions: list[tuple[str, ...]] = []
    for row, found in enumerate(_captions(data, caption)):
        if tally.keeps(found):
            rows.append(row)
            captions.append(found.texts if found is not None else ())
    return Pictures(
        keys=map(str, rows),
        captions=captions,
        load=_Images(data, image),
        report=tally.report(len(rows)),
        at_least=at_least,
    )


class _Images:
    """The files of a column, undecoded, by row (= key)."""

    def __init__(self, data: "datasets.Dataset", column: str) -> None:
        import datasets

        self._column = column
        undecoded = datasets.Image(decode=False)
        self._data = data.with_format(None).select_columns([column]).cast_column(column, undecoded)

    def __call__(self, _: int, key: str) -> Path | bytes:
        try:
            image = self._data[int(key)][self._column] or {}
        except Exception as error:  # whatever a damaged table is met with
            raise DataError(f"row {key} cannot be read: {error}") from None
        if image.get("bytes"):
            return bytes(image["bytes"])
        if image.get("path"):
            return Path(image["path"])
        raise DataError(f"row {key} has no picture")


def _load(place: str, config: str | None) -> Any:
    import datasets

    try:
        if any((Path(place) / mark).is_file() for mark in SAVED_MARKS):
            return datasets.load_from_disk(place)
        _check_card(Path(place))
        return datasets.load_dataset(place, config)
    except Exception as error:  # network, formats, names: the package has no common ancestor
        # What it says first of a damaged file is that there was an error.
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"`datasets` cannot load {place!r}: {reason[0]}") from None


def _check_card(folder: Path) -> None:
    """Refuse a local folder whose card has `datasets` read elsewhere, or fetch."""
    from huggingface_hub import DatasetCard

    texts = [_read_card(folder / name) for name in CARDS if (folder / name).is_file()]
    for text in texts:
        card = DatasetCard(text, ignore_metadata_errors=False).data.to_dict()
        for name in _files_named(card.get("configs")):
            path = PureWindowsPath(name)
            if path.anchor or ".." in path.parts or ":" in name:
                raise ValueError(f"its card names {name!r}, which is not inside the folder")


def _read_card(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text if path.name == CARDS[0] else f"---\n{text}\n---\n"


def _files_named(value: Any, key: str = "") -> Iterator[str]:
    """The paths and patterns in the configurations of a card."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _files_named(item, inner if key != "data_files" else key)
    elif isinstance(value, list):
        for item in value:
            yield from _files_named(item, key)
    elif isinstance(value, str) and key in ("data_files", "data_dir"):
        yield value


def _split(data: Any, split: str, place: str) -> "datasets.Dataset":
    import datasets

    if isinstance(data, datasets.Dataset):
        return data
    if split in data:
        return data[split]
    if len(data) == 1:
        return next(iter(data.values()))
    raise ConfigError(f"{place!r} has no split {split!r}; it has: {', '.join(data)}")


def _columns(
    data: "datasets.Dataset", place: str, image: str | None, caption: str | None
) -> tuple[str, str | None]:
    import datasets

    features = data.features
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    texts = [name for name, kind in features.items() if _is_text(kind)]
    listed = f"{place!r} has the columns {', '.join(features)}"
    for name, fitting, what in ((image, pictures, "pictures"), (caption, texts, "text")):
        if name is not None and name not in fitting:
            raise ConfigError(f"{listed}; {name!r} is no column of {what}")
    if image is None and len(pictures) != 1:
        raise ConfigError(
            f"{listed}; {len(pictures)} of them hold pictures. "
            + ("Say which to use" if pictures else "A data set of pictures is needed")
        )
    if caption is None and len(texts) > 1:
        caption = next((name for name in CAPTION_COLUMNS if name in texts), None)
        if caption is None:
            raise ConfigError(f"{listed}; several hold text: say which has the captions")
    return image or pictures[0], caption or (texts[0] if texts else None)


def _is_text(kind: Any) -> bool:
    import datasets

    if isinstance(kind, datasets.List):
        kind = kind.feature
    return isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string")


def _captions(data: "datasets.Dataset", column: str | None) -> Iterator[Captions | None]:
    if column is None:
        yield from (None for _ in range(len(data)))
        return
    for batch in data.select_columns([column]).with_format(None).iter(batch_size=1000):
        for value in batch[column]:
            some = value if isinstance(value, list) else [value]
            texts = [text for text in some if text is not None]
            yield clean(texts) if texts else None
