"""Results on the disk: pictures, contact sheets, and one JSON file with everything.

    out/0000-3f2a91c0-000.png     prompt 0, the start of its hash, its best picture
    out/0000-3f2a91c0-001.png     its second best
    out/0001-...                  prompt 1
    out/contact-sheet.png         of many pictures also contact-sheet-1.png, ...
    out/generation.json

Names hold counters and a hash, never a word of the prompt. Nothing is overwritten: where results
are already, the numbers of prompts, sheets and JSON files go on (generation-1.json, ...).
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile

from dalle.errors import InputError, SaveError
from dalle.sampling.contact_sheet import Band, Entry, contact_sheet
from dalle.sampling.picture import Picture, create, png_bytes

FORMAT = 1
PICTURES_PER_SHEET = 96
PROMPTS_PER_SHEET = 24
NAME = re.compile(r"(\d{4,})-[0-9a-f]{8}-\d{3,}\.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What was written, in this order within each kind."""

    folder: Path
    pictures: tuple[Path, ...]
    sheets: tuple[Path, ...]
    record: Path


@dataclass(kw_only=True, slots=True)
class _Writing:
    """Results half-way through being written."""

    folder: Path
    next_number: int
    pictures: list[Path] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    """As JSON texts: small beside the numbers they stand for."""
    bands: list[Band] = field(default_factory=list)
    """Of the page that is not full yet."""
    sheets: list[Path] = field(default_factory=list)


def save_results(folder: str | Path, results: Iterable[list[Picture]]) -> Saved:
    """Write pictures as they come, prompt by prompt; then the last sheet and the JSON file.

    The folder is made and tried first, so that with `Pipeline.generate_each` nothing is generated
    in vain. If a later prompt fails, what came before it is written whole, JSON file and all.

    Args:
        folder: new or not; earlier results in it stay as they are.
        results: the pictures of each prompt, best first.

    Raises:
        SaveError: something cannot be written; the message has its path.
    """
    writing = _start(Path(folder).expanduser())
    try:
        for pictures in results:
            if pictures:
                _add(writing, pictures)
    except SaveError:
        raise
    except BaseException:
        if writing.pictures:
            _finish(writing)
        raise
    if not writing.pictures:
        raise InputError("there is no picture to save; expected those of one prompt at least")
    return _finish(writing)


def _start(folder: Path) -> _Writing:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        numbers = [int(match[1]) for p in folder.iterdir() if (match := NAME.fullmatch(p.name))]
    except OSError as error:
        raise SaveError(
            f"cannot write to {folder}: {error.strerror}; give a folder that can be written to"
        ) from error
    return _Writing(folder=folder, next_number=max(numbers, default=-1) + 1)


def _add(writing: _Writing, pictures: list[Picture]) -> None:
    digest = hashlib.sha256(pictures[0].prompt.encode("utf-8", "replace")).hexdigest()[:8]
    stems = (f"{number:04d}-{digest}" for number in count(writing.next_number))
    entries, stem = [], next(stems)
    for place, picture in enumerate(pictures):
        record = picture.record()
        data = png_bytes(picture.image, record)
        path = writing.folder / f"{stem}-{place:03d}.png"
        while not _created(path, data):  # another process writes here too
            stem = next(stems)
            path = writing.folder / f"{stem}-{place:03d}.png"
        writing.pictures.append(path)
        writing.records.append(json.dumps({"file": path.name, **record.to_fields()}))
        entries.append(_entry(picture))
    writing.next_number = int(stem.partition("-")[0]) + 1
    _add_to_sheets(writing, pictures[0], stem, entries)


def _entry(picture: Picture) -> Entry:
    kind = {"clip": "CLIP {:.3f}", "log_prob": "ln p {:.1f}"}[picture.score_kind]
    return Entry(image=picture.image, caption=(kind.format(picture.score), f"seed {picture.seed}"))


def _add_to_sheets(writing: _Writing, best: Picture, stem: str, entries: list[Entry]) -> None:
    by = {"clip": "CLIP", "log_prob": "the model's ln p(picture | text)"}[best.score_kind]
    of = best.made.num_samples
    chosen = f"best {len(entries)} of {of}" if len(entries) < of else f"{of} of {of}"
    note = f"{stem}: {chosen}, by {by}"
    for start in range(0, len(entries), PICTURES_PER_SHEET):
        part = tuple(entries[start : start + PICTURES_PER_SHEET])
        held = sum(len(band.entries) for band in writing.bands)
        full = held + len(part) > PICTURES_PER_SHEET or len(writing.bands) == PROMPTS_PER_SHEET
        if writing.bands and full:
            _write_sheet(writing)
        title = best.prompt if best.prompt.strip() else "(no prompt)"
        writing.bands.append(Band(title=title, note=note, entries=part))


def _write_sheet(writing: _Writing) -> None:
    buffer = BytesIO()
    contact_sheet(writing.bands).save(buffer, format="PNG")
    path = _create_next(writing.folder, "contact-sheet{}.png", buffer.getvalue())
    writing.sheets.append(path)
    writing.bands.clear()


def _finish(writing: _Writing) -> Saved:
    if writing.bands:  # there are none when the first prompt was interrupted half-way
        _write_sheet(writing)
    sheets = json.dumps([path.name for path in writing.sheets])
    records = ",\n".join(writing.records)
    text = f'{{"format": {FORMAT},\n"contact_sheets": {sheets},\n"pictures": [\n{records}\n]}}\n'
    record = _create_next(writing.folder, "generation{}.json", text.encode())
    return Saved(
        folder=writing.folder,
        pictures=tuple(writing.pictures),
        sheets=tuple(writing.sheets),
        record=record,
    )


def _create_next(folder: Path, pattern: str, data: bytes) -> Path:
    """Write under the first name that is free: without a number, then with -1, -2, ..."""
    for number in count():
        path = folder / pattern.format(f"-{number}" if number else "")
        if _created(path, data):
            return path
    raise AssertionError("count() does not end")


def _created(path: Path, data: bytes) -> bool:
    try:
        create(path, data)
    except FileExistsError:
        return False
    return True
