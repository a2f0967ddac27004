"""Captioned pictures in tar archives, as webdataset and img2dataset write them."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from dalle.data import remote
from dalle.data.folder import path_of
from dalle.data.pictures import Pictures, Tally
from dalle.data.tar_listing import Found, Listing, captions_of, list_members
from dalle.errors import DataError
from dalle.picture_files import MAX_BYTES

DOWNLOADS = 8
"""Archives that are looked through at once where they are not on this machine."""


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
            elif tally.keeps(texts := captions_of(sample)):
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

    def mark(self, index: int) -> str:
        """The picture's place, and what changes when its archive does."""
        number, offset, size = (int(value) for value in self._where[index])
        return f"{mark_of_shard(self._shards[number])}/{offset}/{size}"


@cache
def mark_of_shard(shard: str) -> str:
    """What changes when an archive does; asked for once."""
    if remote.is_remote(shard):
        return remote.mark(shard)
    try:
        info = os.stat(path_of(shard))
    except OSError as error:
        raise DataError(f"{shard!r} cannot be read: {error.strerror}") from None
    return f"{info.st_size}/{info.st_mtime_ns}/{info.st_ctime_ns}"


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
        return Listing(
            samples=[Found(**sample) for sample in value["samples"]],
            counts=value["counts"],
            problems=value["problems"],
        )
    listing = Listing()
    with remote.open_stream(shard) as stream:
        list_members(stream, stream.size, listing, image=image, caption=caption)
    samples = [{name: getattr(s, name) for name in Found.__slots__} for s in listing.samples]
    remote.keep(kept, {"samples": samples, "counts": listing.counts, "problems": listing.problems})
    return listing
