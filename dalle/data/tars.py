"""Captioned pictures in tar archives, as webdataset and img2dataset write them."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dalle.data import remote
from dalle.data.captions import MAX_FILE_BYTES, Captions, clean, decode
from dalle.data.folder import path_of
from dalle.data.pictures import Pictures, Tally
from dalle.data.rows import TEXT_COLUMNS
from dalle.data.tar_members import Member, Stream, members
from dalle.errors import DataError
from dalle.picture_files import EXTENSIONS, MAX_BYTES

TEXTS = ("txt", "caption", "text")
"""Suffixes of members that are text, one caption a line."""
JSON = "json"
IMAGES = tuple(sorted(extension[1:] for extension in EXTENSIONS))
DOWNLOADS = 8
"""Archives that are looked through at once where they are not on this machine."""


@dataclass(kw_only=True, slots=True)
class Found:
    """One sample of an archive: members of the same name up to its first dot."""

    key: str
    offset: int = -1
    """Of the picture; -1 while there is none."""
    size: int = 0
    text: list[str] | None = None
    fields: list[str] | None = None
    """Captions of its JSON member."""
    mended: bool = False


@dataclass(kw_only=True, slots=True)
class Listing:
    """What an archive holds."""

    samples: list[Found] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, kind: str) -> None:
        """One more of a field of `Report`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1


def open_tars(
    shards: Sequence[str],
    *,
    place: str,
    image: str | None = None,
    caption: str | None = None,
    keep_empty: bool = False,
    at_least: int | None = None,
) -> Pictures:
    """The samples of tar archives, numbered, so that they are read in any order.

    Only the headers are gone through, once; pictures stay where they are and are read by their
    place in the archive, those behind http(s) by asking for that part. Pictures and captions are
    told by the suffix, and members of other kinds are never opened. Of members of the same name
    the first counts; links, devices and sparse files are left out.

    Args:
        shards: paths, or http(s) addresses.
        place: what they are called together.
        image: the suffix of the pictures; by default any known one, of several the first.
        caption: the suffix of text members, or a field of JSON members; by default `TEXTS`, and
            where there is none, `TEXT_COLUMNS` of the JSON.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: as in `Pictures`.

    Raises:
        DataError: there is nothing usable, or an archive cannot be fetched.
    """
    tally = Tally(place, keep_empty=keep_empty)
    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    where: list[tuple[int, int, int]] = []
    for number, listing in enumerate(_listings(shards, image, caption)):
        name = os.path.basename(shards[number])
        for kind, count in listing.counts.items():
            tally.add(kind, count=count)
        for problem in listing.problems:
            tally.add("unreadable", f"{name!r}: {problem}")
        for sample in listing.samples:
            if sample.offset < 0:
                tally.add("no_picture")
            elif tally.keeps(texts := _captions(sample)):
                keys.append(f"{name}/{sample.key}")
                captions.append(texts.texts if texts is not None else ())
                where.append((number, sample.offset, sample.size))
    return Pictures(
        keys=keys,
        captions=captions,
        load=_Parts(list(shards), np.array(where, dtype=np.int64).reshape(-1, 3)),
        report=tally.report(len(keys)),
        at_least=at_least,
    )


class _Parts:
    """The bytes of pictures, by the number of the archive and their place in it."""

    def __init__(self, shards: list[str], where: np.ndarray) -> None:
        self._shards = shards
        self._where = where

    def __call__(self, index: int, _: str) -> bytes:
        number, offset, size = (int(value) for value in self._where[index])
        shard = self._shards[number]
        if size > MAX_BYTES:
            raise DataError(f"a picture of {size} bytes in {shard!r}; at most {MAX_BYTES} are read")
        if remote.is_remote(shard):
            return remote.read_part(shard, offset, size)
        try:
            with open(path_of(shard), "rb") as file:
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise DataError(f"{shard!r} cannot be read: {error.strerror}") from None
        if len(data) < size:
            raise DataError(f"{shard!r} became shorter than it was")
        return data


def _listings(shards: Sequence[str], image: str | None, caption: str | None) -> Iterator[Listing]:
    local = [not remote.is_remote(shard) for shard in shards]
    if all(local):
        yield from (_local(shard, image, caption) for shard in shards)
        return
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        yield from pool.map(
            lambda shard: (_remote if remote.is_remote(shard) else _local)(shard, image, caption),
            shards,
        )


def _local(shard: str, image: str | None, caption: str | None) -> Listing:
    path = Path(path_of(shard))
    listing = Listing()
    try:
        if not path.is_file():
            listing.problems.append("not a file")
        else:
            with path.open("rb") as stream:
                list_members(stream, path.stat().st_size, listing, image=image, caption=caption)
    except OSError as error:
        listing.problems.append(str(error.strerror))
    return listing


def _remote(shard: str, image: str | None, caption: str | None) -> Listing:
    """From the listing that was kept when the archive was first gone through, if it is the same."""
    kept = remote.kept_file(shard, f"{image}/{caption}")
    if kept.is_file():
        value = json.loads(kept.read_text("utf-8"))
        samples = [Found(**sample) for sample in value["samples"]]
        return Listing(samples=samples, counts=value["counts"], problems=value["problems"])
    listing = Listing()
    with remote.open_stream(shard) as stream:
        list_members(stream, stream.size, listing, image=image, caption=caption)
    samples = [{name: getattr(s, name) for name in Found.__slots__} for s in listing.samples]
    remote.keep(kept, {"samples": samples, "counts": listing.counts, "problems": listing.problems})
    return listing


def list_members(
    stream: Stream, size: int, listing: Listing, *, image: str | None, caption: str | None
) -> None:
    """Put what is in an archive into a listing; what is wrong with it goes into its problems."""
    if size == 0:
        listing.problems.append("no bytes")
        return
    samples: dict[str, Found] = {}
    seen: set[str] = set()
    try:
        for member in members(stream, size=size):
            folder, _, base = member.name.removeprefix("./").rpartition("/")
            stem, _, suffix = base.partition(".")
            if not stem or not suffix or folder.startswith("__MACOSX"):
                continue
            key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
            if not member.regular:
                listing.count("other_members")
            elif f"{key}.{suffix}" in seen:
                listing.count("repeated")
            else:
                seen.add(f"{key}.{suffix}")
                sample = samples.get(key) or Found(key=key)
                if _take(stream, member, suffix, sample, image=image, caption=caption):
                    samples[key] = sample
                else:
                    listing.count("other_members")
    except DataError as error:
        listing.problems.append(str(error))
    listing.samples += samples.values()


def _take(
    stream: Stream,
    member: Member,
    suffix: str,
    sample: Found,
    *,
    image: str | None,
    caption: str | None,
) -> bool:
    """Whether the member is of use to the sample, which then has it."""
    if suffix == image or (image is None and suffix in IMAGES):
        if sample.offset >= 0:
            return False
        sample.offset, sample.size = member.offset, member.size
        return True
    is_text = suffix in TEXTS if caption is None else suffix == caption
    if (not is_text and (suffix != JSON or caption in TEXTS)) or member.size > MAX_FILE_BYTES:
        return False
    data = stream.read(member.size)
    if is_text:
        found = decode(data)
        sample.text = [*(sample.text or []), *found.texts]
        sample.mended = sample.mended or found.mended
    else:
        sample.fields = _fields(data, TEXT_COLUMNS if caption is None else (caption,))
    return True


def _fields(data: bytes, names: Sequence[str]) -> list[str] | None:
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    some = [value[name] for name in names if value.get(name) is not None]
    texts = [text for one in some for text in (one if isinstance(one, list) else [one])]
    return [text for text in texts if isinstance(text, str)] if texts else None


def _captions(sample: Found) -> Captions | None:
    texts = sample.text if sample.text is not None else sample.fields
    return None if texts is None else clean(dict.fromkeys(texts), mended=sample.mended)
