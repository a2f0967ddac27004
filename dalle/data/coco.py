"""The captions of COCO: one JSON file of pictures and of the annotations that describe them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dalle.data.pictures import Pictures
from dalle.data.rows import Row
from dalle.data.tables import pictures_of_rows
from dalle.errors import ConfigError, DataError


def is_coco(value: Any) -> bool:
    """Whether a JSON value is laid out so."""
    return isinstance(value, dict) and {"images", "annotations"} <= value.keys()


def open_coco(
    file: Path,
    value: Any,
    *,
    images: str | None = None,
    keep_empty: bool = False,
    at_least: int | None = None,
) -> Pictures:
    """The pictures of a captions file, in its order, each with all of its captions.

    Args:
        file: where the value came from.
        value: what is in it.
        images: the folder of the pictures, relative to the file's. By default the first of these
            that has one of them: the file's own folder, `images` in it or beside it, and beside it
            the folder named as the end of the file's name (annotations/captions_val2017.json:
            val2017).
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: as in `Pictures`.

    Raises:
        DataError: it is damaged, or none of its pictures is there.
        ConfigError: there is no such folder.
    """
    pictures, annotations = value["images"], value["annotations"]
    if not isinstance(pictures, list) or not isinstance(annotations, list):
        raise DataError(f"{str(file)!r}: images and annotations are no lists")
    captions: dict[Any, list[Any]] = {}
    for note in annotations:
        if isinstance(note, dict) and isinstance(note.get("image_id"), int | str):
            captions.setdefault(note["image_id"], []).append(note.get("caption"))
    return pictures_of_rows(
        _rows(file.name, pictures, captions),
        place=str(file),
        folder=_folder(file, pictures, images),
        image="file_name",
        captions=(),
        keep_empty=keep_empty,
        at_least=at_least,
    )


def _rows(name: str, pictures: list[Any], captions: dict[Any, list[Any]]) -> Iterator[Row]:
    for number, row in enumerate(pictures, start=1):
        where = f"{name}: image {number}"
        if not isinstance(row, dict) or not isinstance(row.get("id"), int | str):
            yield where, 'expected an object with "id" and "file_name"'
            continue
        fields: dict[str, Any] = {"file_name": row.get("file_name")}
        if row["id"] in captions:
            fields["captions"] = captions[row["id"]]
        yield where, fields


def _folder(file: Path, pictures: list[Any], images: str | None) -> Path:
    if images is not None:
        given = file.parent / Path(images).expanduser()
        if not given.is_dir():
            raise ConfigError(f"there is no folder {str(given)!r} for the pictures of {file.name}")
        return given
    beside = file.parent.parent
    places = [file.parent, file.parent / "images", beside / "images"]
    places.append(beside / file.stem.rpartition("_")[2])
    names = [row.get("file_name") for row in pictures[:100] if isinstance(row, dict)]
    for place in places:
        if any(isinstance(name, str) and name and (place / name).is_file() for name in names):
            return place
    looked = ", ".join(repr(str(place)) for place in places)
    raise DataError(
        f"no image-text pairs found in {str(file)!r}: its pictures are in none of {looked}. "
        f"Say where they are: {file}?images=FOLDER"
    )
