"""Data sets by name."""

from pathlib import Path
from urllib.parse import parse_qsl

from dalle.data.folder import open_folder
from dalle.data.hub import SAVED_MARKS, open_dataset
from dalle.data.jsonl import FILE_NAME, open_jsonl
from dalle.data.pictures import SUPPORTED
from dalle.data.shapes import ShapesSource
from dalle.errors import ConfigError, DataError, InputError
from dalle.protocols import Source

HUB = "hub:"
BUILT_IN = {"shapes": False, "shapes:heldout": True}
"""Name -> whether its pictures show held-out combinations."""
_TABLE_MARKS = ("metadata.csv", "metadata.parquet", "*.parquet", "data/*.parquet", "*.arrow")


def open_source(
    spec: str | Path,
    *,
    keep_empty: bool = False,
    at_least: int | None = None,
    num_samples: int = 100_000,
    size: int = 64,
    seed: int = 0,
) -> Source:
    """Open a data set. The first rule that fits decides:

    1. `shapes`, `shapes:heldout`: the built-in pictures;
    2. `hub:NAME`, also `hub:NAME?split=S&config=C&image=COLUMN&caption=COLUMN`: a data set of the
       `datasets` package, on the hub or in the folder NAME;
    3. a file whose name ends in .jsonl, or a folder with a metadata.jsonl: its lines;
    4. a folder written by `save_to_disk`, or with metadata.csv, metadata.parquet or parquet
       files: by the `datasets` package;
    5. any other folder: pictures with captions in .txt files beside them.

    Args:
        spec: a path or one of the names above.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: the shorter side that will be needed, in pixels (large JPEGs decode faster).
        num_samples, size, seed: of the built-in pictures.

    Raises:
        InputError: there is no such path.
        DataError: there is nothing usable, or the data cannot be read.
    """
    name = str(spec)
    if name in BUILT_IN:
        return ShapesSource(num_samples, size=size, seed=seed, held_out=BUILT_IN[name])
    if name.startswith(HUB):
        place, options = _hub_options(name.removeprefix(HUB))
        return open_dataset(place, **options, keep_empty=keep_empty, at_least=at_least)
    path = Path(spec)
    if path.is_file() and path.suffix.lower() == ".jsonl":
        return open_jsonl(path, keep_empty=keep_empty, at_least=at_least)
    if not path.is_dir() or not name:  # Path("") would be the current folder
        what = "is not a folder or a .jsonl file" if path.exists() else "does not exist"
        raise InputError(
            f"no image-text pairs found in {name!r}: it {what}. A data set is {SUPPORTED}"
        )
    if (path / FILE_NAME).is_file():
        return open_jsonl(path / FILE_NAME, keep_empty=keep_empty, at_least=at_least)
    if any((path / mark).is_file() for mark in SAVED_MARKS) or any(
        next(path.glob(mark), None) for mark in _TABLE_MARKS
    ):
        return open_dataset(path, keep_empty=keep_empty, at_least=at_least)
    try:
        return open_folder(path, keep_empty=keep_empty, at_least=at_least)
    except DataError as error:
        below = next((str(file.parent) for file in sorted(path.glob(f"*/{FILE_NAME}"))), None)
        if below is None:
            raise
        raise DataError(f"{error}. There is a {FILE_NAME} in {below!r}: give that folder") from None


def _hub_options(text: str) -> tuple[str, dict[str, str]]:
    place, _, query = text.partition("?")
    known = {
        "split": "split",
        "config": "config",
        "image": "image_column",
        "caption": "caption_column",
    }
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known or not value:
            raise ConfigError(f"{HUB}{text}: {name!r}; expected {', '.join(known)} with a value")
        options[known[name]] = value
    if not place:
        raise ConfigError(f"{HUB} needs the name of a data set after it")
    return place, options
