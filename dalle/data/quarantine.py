"""Lists of samples that are to be left out."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from dalle.data.chosen_rows import ChosenRows
from dalle.data.split import Subset, key_at
from dalle.errors import DataError, InputError
from dalle.protocols import Source, Stream


def write_quarantine(path: Path, reasons: Mapping[str, str]) -> None:
    """Write a list: one object a line, with the key of a sample and why it is there."""
    lines = (json.dumps({"key": key, "reason": why}) + "\n" for key, why in reasons.items())
    path.write_text("".join(lines), encoding="utf-8")


def read_quarantine(path: Path) -> dict[str, str]:
    """The keys in a list, with their reasons.

    Raises:
        InputError: it cannot be read, or is no such list.
    """
    found: dict[str, str] = {}
    try:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("key"), str):
                raise InputError(f'{path}:{number}: expected an object with a "key"')
            found[row["key"]] = str(row.get("reason"))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no quarantine list: {error}") from None
    return found


def without(source: Source | Stream, quarantine: str | None) -> Source | Stream:
    """A source without the samples whose keys a list has; no list leaves nothing out.

    Raises:
        InputError: the list cannot be read.
        DataError: nothing would be left, as far as that is known.
    """
    if quarantine is None:
        return source
    listed = read_quarantine(Path(quarantine).expanduser())
    if isinstance(source, Stream):
        return ChosenRows(source, partial(_is_no_key_of, listed))
    kept = [index for index in range(len(source)) if key_at(source, index) not in listed]
    if not kept:
        raise DataError(f"all samples are in the quarantine list {quarantine!r}")
    return Subset(source, kept)


def _is_no_key_of(listed: Mapping[str, str], key: str) -> bool:
    return key not in listed
