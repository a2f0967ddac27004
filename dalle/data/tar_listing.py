"""What an archive holds: members of the same name are a sample."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dalle.data.captions import MAX_FILE_BYTES, Captions, clean, decode
from dalle.data.rows import TEXT_COLUMNS
from dalle.data.tar_members import Member, Stream, members
from dalle.errors import DataError
from dalle.picture_files import EXTENSIONS

TEXTS = ("txt", "caption", "text")
"""Suffixes of members that are text, one caption a line."""
JSON = "json"
IMAGES = tuple(sorted(extension[1:] for extension in EXTENSIONS))


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


def captions_of(sample: Found) -> Captions | None:
    """Of its text, or else of its JSON; None where it has neither."""
    texts = sample.text if sample.text is not None else sample.fields
    return None if texts is None else clean(dict.fromkeys(texts), mended=sample.mended)
