"""A folder of pictures with captions in text files beside them, or in the names of its folders."""

import os
import unicodedata
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dalle.data.caption_files import CaptionFiles
from dalle.data.captions import Captions, clean
from dalle.data.pictures import Pictures, Tally
from dalle.errors import ConfigError
from dalle.picture_files import EXTENSIONS

OTHER_EXTENSIONS = frozenset({".bmp", ".tif", ".tiff", ".avif", ".heic", ".svg", ".jxl", ".jp2"})


CLASS_TEMPLATE = "a picture of {}"
"""The caption where pictures lie in folders named for what they show, and have no other."""


def open_folder(
    folder: Path,
    *,
    templates: tuple[str, ...] = (),
    keep_empty: bool = False,
    at_least: int | None = None,
    read_texts: bool = True,
    cache: Path | None = None,
) -> Pictures:
    """All pictures below a folder, each with the lines of the .txt of the same name beside it.

    With templates, captions are made from the name of the folder that a picture lies in instead.
    So they are, by `CLASS_TEMPLATE`, where there is no .txt at all and all pictures lie in two or
    more folders below this one (not with `keep_empty`: they are wanted without captions).

    Extensions match without regard to case, names with regard to it; a name in composed and one in
    decomposed letters match. Several pictures of one name share the captions. Hidden files and
    folders are ignored, linked folders not followed. The order is that of the names.

    Args:
        folder: an existing folder.
        templates: captions with `{}` where the folder's name goes, its underscores as spaces.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: as in `Pictures`.
        read_texts: whether the .txt files are opened; else they are as if they were not there.
        cache: where captions are kept, so that a file is opened once; None keeps none.

    Raises:
        DataError: nothing usable is in it.
        ConfigError: a template has no `{}`.
    """
    root = str(folder)
    tally = Tally(root, keep_empty=keep_empty)
    found = _scan(root, tally)
    if not read_texts:
        found = _Found(pictures=found.pictures)
    templates = _templates(templates, found, tally, keep_empty=keep_empty)
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    used: set[str] = set()
    files = CaptionFiles(root, cache if read_texts else None)
    for key in sorted(found.pictures):
        stem = os.path.splitext(key)[0]
        text = found.texts.get(stem) or found.composed.get(_composed(stem))
        beside: Captions | None = None
        if templates:
            beside = _of_class(key, templates)
        elif text is not None:
            used.add(text)
            beside = _read(root, text, files, tally)
        if tally.keeps(beside):
            keys.append(key)
            captions.append(beside.texts if beside is not None else ())
    files.keep()
    for _ in () if templates else set(found.texts.values()) - used:
        tally.add("no_picture")
    return Pictures(
        keys=keys,
        captions=captions,
        load=partial(file_of, folder),
        report=tally.report(len(keys)),
        at_least=at_least,
    )


def name_of(path: str) -> str:
    """A path of this machine as text: names are UTF-8, even where the locale says otherwise."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def path_of(name: str) -> str:
    """The path of this machine that has the name `name`."""
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def file_of(folder: Path, _: int, key: str) -> Path:
    """The file of a picture whose key is its name in `folder`."""
    return folder / path_of(key)


@dataclass(kw_only=True, slots=True)
class _Found:
    pictures: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """Name without extension -> name."""
    composed: dict[str, str] = field(default_factory=dict)
    """The same by the name in composed letters."""


def _scan(root: str, tally: Tally) -> _Found:
    found = _Found()
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, path_of(folder))) as entries:
                for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
                    if not entry.name.startswith("."):
                        _sort_in(entry, folder, folders, found, tally)
        except OSError as error:
            tally.add("unreadable", f"{folder or root!r}: {error.strerror}")
    return found


def _sort_in(
    entry: "os.DirEntry[str]", folder: str, folders: list[str], found: _Found, tally: Tally
) -> None:
    name = f"{folder}{name_of(entry.name)}"
    stem, extension = os.path.splitext(name)
    extension = extension.lower()
    if entry.is_dir(follow_symlinks=False):
        folders.append(f"{name}/")
        return
    wanted = extension in EXTENSIONS or extension == ".txt"
    try:
        if entry.is_dir():
            tally.add("linked_folders")
        elif extension in OTHER_EXTENSIONS:
            tally.add("other_kinds", f"{name!r}: pictures of this format are not read")
        elif wanted and not entry.is_file():
            tally.add("unreadable", f"{name!r}: neither a file nor a link to one")
        elif extension in EXTENSIONS:
            found.pictures.append(name)
        elif extension == ".txt":
            found.texts.setdefault(stem, name)
            found.composed.setdefault(_composed(stem), name)
    except OSError as error:  # links in a circle
        tally.add("unreadable", f"{name!r}: {error.strerror}")


def _templates(
    asked: tuple[str, ...], found: _Found, tally: Tally, *, keep_empty: bool
) -> tuple[str, ...]:
    for template in asked:
        if "{}" not in template:
            raise ConfigError(f"template {template!r} has no {{}} for the name of the folder")
    folders = {key.rpartition("/")[0] for key in found.pictures}
    if not asked and not keep_empty and not found.texts and len(folders - {""}) > 1:
        asked = () if "" in folders else (CLASS_TEMPLATE,)
    if asked:
        tally.note(f"captions are made from the names of {len(folders)} folders: {asked[0]!r}")
    return asked


def _of_class(key: str, templates: tuple[str, ...]) -> Captions | None:
    name = key.rpartition("/")[0].rpartition("/")[2].replace("_", " ")
    return clean(template.replace("{}", name) for template in templates) if name else None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _read(root: str, name: str, files: CaptionFiles, tally: Tally) -> Captions:
    try:
        return files.read(name, os.path.join(root, path_of(name)))
    except OSError as error:
        tally.add("unreadable", f"{name!r}: {error.strerror}")
        return Captions(texts=())
