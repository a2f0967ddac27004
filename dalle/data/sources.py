"""Data sets by name: what lies there decides how it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dalle.data.coco import is_coco, open_coco
from dalle.data.folder import open_folder
from dalle.data.hub import SAVED_MARKS, open_dataset
from dalle.data.hub_stream import open_stream
from dalle.data.mixed_stream import MixedStream, NumberedStream
from dalle.data.mixture import MIX, mixture_parts, open_mixture
from dalle.data.options import HUB, Options, only, split_options, value_of
from dalle.data.pictures import SUPPORTED, Pictures
from dalle.data.rows import list_rows, read_json, read_rows
from dalle.data.shapes import ShapesSource
from dalle.data.shards import shards_of
from dalle.data.tables import EXTENSIONS, FILE_NAMES, pictures_of_rows
from dalle.data.tars import open_tars
from dalle.errors import ConfigError, DataError, InputError
from dalle.protocols import Source, Stream

BUILT_IN = {"shapes": False, "shapes:heldout": True}
"""Name -> whether its pictures show held-out combinations."""
_OF_DATASETS = ("image", "caption", "split", "config")
_PARQUET_MARKS = ("metadata.parquet", "*.parquet", "data/*.parquet", "*.arrow")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """How a data set is to be read."""

    keep_empty: bool
    at_least: int | None
    captions: bool
    cache: Path | None


def open_source(
    spec: str | Path,
    *,
    keep_empty: bool = False,
    at_least: int | None = None,
    captions: bool = True,
    num_samples: int = 100_000,
    size: int = 64,
    seed: int = 0,
    cache: Path | None = None,
) -> Source | Stream:
    """Open a data set. The first rule that fits decides:

    1. `shapes`, `shapes:heldout`: the built-in pictures;
    2. `mix:2*A+1*B`: the data sets A and B, two pictures of A to each of B; a `Stream` where one
       of them is;
    3. `hub:NAME`: a data set of the `datasets` package, on the hub or in the folder NAME; with
       `?stream=yes` a `Stream`;
    4. a name or an http(s) address that ends in .tar: an archive; with braces (`{000..017}`,
       `{a,b}`) several; a folder with .tar files: all of them;
    5. a .csv, .tsv, .jsonl or .json file, or a folder with a metadata file of such a kind: its
       rows; a .json file laid out as the captions of COCO: those;
    6. a .parquet file, a folder written by `save_to_disk`, or one with parquet files that do not
       describe archives or folders beside them: by the `datasets` package;
    7. any other folder: pictures with captions in .txt files beside them, or, where there are
       none, in folders named for what they show.

    After a `?` come options, as in `birds.csv?image=path&caption=title`: `image` and `caption` name
    columns (in archives suffixes, or a field of the JSON), `split` and `config` a part of a data
    set of `datasets`, which `stream=yes` reads as it comes, `template` captions made of the names
    of folders, `images` the folder of the pictures of COCO.

    Args:
        spec: a path or one of the names above.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: the shorter side that will be needed, in pixels (large JPEGs decode faster).
        captions: whether the text files beside the pictures of a folder are opened; else they are
            as if they were not there.
        num_samples, size, seed: of the built-in pictures.
        cache: where the captions of folders are kept; None keeps none.

    Raises:
        InputError: there is no such path.
        ConfigError: an option is unknown, or does not fit the data.
        DataError: there is nothing usable, or the data cannot be read.
    """
    name = str(spec)
    if name in BUILT_IN:
        return ShapesSource(num_samples, size=size, seed=seed, held_out=BUILT_IN[name])
    if name.startswith(MIX):
        opened = partial(
            open_source,
            keep_empty=keep_empty,
            at_least=at_least,
            captions=captions,
            num_samples=num_samples,
            size=size,
            seed=seed,
            cache=cache,
        )
        parts = [(weight, opened(part)) for weight, part in mixture_parts(name)]
        return _mixed(parts)
    place, options = split_options(name)
    if place.startswith(HUB) and value_of(options, "stream") == "yes":
        taken = only(options, ("stream", *_OF_DATASETS), place)
        return open_stream(
            place.removeprefix(HUB),
            split=value_of(taken, "split") or "train",
            config=value_of(taken, "config"),
            image_column=value_of(taken, "image"),
            caption_columns=taken.get("caption", ()),
            keep_empty=keep_empty,
            at_least=at_least,
        )
    reading = _Reading(keep_empty=keep_empty, at_least=at_least, captions=captions, cache=cache)
    return _open(place, options, reading)


def _mixed(parts: Sequence[tuple[float, Source | Stream]]) -> Source | Stream:
    """A stream where one of the parts is."""
    if any(isinstance(part, Stream) for _, part in parts):
        return MixedStream(
            [(w, part if isinstance(part, Stream) else NumberedStream(part)) for w, part in parts]
        )
    return open_mixture([(w, part) for w, part in parts if not isinstance(part, Stream)])


def numbered(source: Source | Stream, spec: str) -> Source:
    """A data set whose samples have numbers, which a stream's have not.

    Raises:
        ConfigError: it is a stream.
    """
    if isinstance(source, Stream):
        raise ConfigError(
            f"{spec!r} is a stream, which can only be trained on as it comes: leave out "
            "stream=yes, so that it is downloaded"
        )
    return source


def _open(place: str, options: Options, reading: _Reading) -> Pictures:
    if place.startswith(HUB):
        return _open_dataset(place.removeprefix(HUB), options, reading)
    if shards := shards_of(place):
        taken = only(options, ("image", "caption"), place)
        return open_tars(
            shards,
            place=place,
            image=value_of(taken, "image"),
            caption=value_of(taken, "caption"),
            keep_empty=reading.keep_empty,
            at_least=reading.at_least,
        )
    path = Path(place).expanduser()
    if path.is_file() and path.suffix.lower() in EXTENSIONS:
        return _open_table(path, options, reading)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return _open_dataset(str(path), options, reading)
    if not path.is_dir() or not place:  # Path("") would be the current folder
        what = "is no kind of data set that is known" if path.exists() else "does not exist"
        if place.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
            what = "is compressed; unpack it to a .tar (gunzip)"
        raise InputError(
            f"no image-text pairs found in {place!r}: it {what}. A data set is {SUPPORTED}"
        )
    return _open_folder(path, options, reading)


def _open_folder(path: Path, options: Options, reading: _Reading) -> Pictures:
    for name in FILE_NAMES:
        if (path / name).is_file():
            return _open_table(path / name, options, reading)
    if any((path / mark).is_file() for mark in SAVED_MARKS) or _has_tables(path):
        return _open_dataset(str(path), options, reading)
    templates = only(options, ("template",), str(path)).get("template", ())
    try:
        return open_folder(
            path,
            templates=templates,
            keep_empty=reading.keep_empty,
            at_least=reading.at_least,
            read_texts=reading.captions,
            cache=reading.cache,
        )
    except DataError as error:
        tables = (file for name in FILE_NAMES for file in sorted(path.glob(f"*/{name}")))
        below = next(tables, None)
        if below is None:
            raise
        raise DataError(
            f"{error}. There is a {below.name} in {str(below.parent)!r}: give that folder"
        ) from None


def _has_tables(path: Path) -> bool:
    """Whether parquet files hold the data; img2dataset's describe folders or archives instead."""
    return any(
        not (table.with_name(f"{table.stem}_stats.json").exists() or table.with_suffix("").is_dir())
        for mark in _PARQUET_MARKS
        for table in path.glob(mark)
    )


def _open_dataset(place: str, options: Options, reading: _Reading) -> Pictures:
    taken = only(options, _OF_DATASETS, place)
    if not place:
        raise ConfigError(f"{HUB} needs the name of a data set after it")
    return open_dataset(
        place,
        split=value_of(taken, "split") or "train",
        config=value_of(taken, "config"),
        image_column=value_of(taken, "image"),
        caption_columns=taken.get("caption", ()),
        keep_empty=reading.keep_empty,
        at_least=reading.at_least,
    )


def _open_table(path: Path, options: Options, reading: _Reading) -> Pictures:
    is_json = path.suffix.lower() == ".json"
    value = read_json(path) if is_json else None
    if is_coco(value):
        return open_coco(
            path,
            value,
            images=value_of(only(options, ("images",), str(path)), "images"),
            keep_empty=reading.keep_empty,
            at_least=reading.at_least,
        )
    taken = only(options, ("image", "caption"), str(path))
    captions = taken.get("caption", ())
    return pictures_of_rows(
        list_rows(path.name, value) if is_json else read_rows(path, joins=captions[-1:]),
        place=str(path),
        folder=path.parent,
        image=value_of(taken, "image"),
        captions=captions,
        keep_empty=reading.keep_empty,
        at_least=reading.at_least,
    )
