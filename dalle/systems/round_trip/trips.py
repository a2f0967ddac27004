"""The round trips of a data set on the disk, one line each, so that a stopped evaluation goes on.

out/settings.json    what they are made with; another command in the same folder is refused
out/trips.jsonl      a line for each picture that is through
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle.checkpoint.manifest import saving, write_json
from dalle.config import from_json, to_json
from dalle.errors import ConfigError
from dalle.json_files import read_json

SETTINGS = "settings.json"
TRIPS = "trips.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One candidate."""

    captions: tuple[str, ...]
    """The caption that it is; or those written of the picture that it is."""
    times: int
    similarities: tuple[float, ...]
    judged: float | None
    """Its quality by the CLIP that judges, where there is one."""

    @property
    def score(self) -> float:
        """The mean of the similarities."""
        return sum(self.similarities) / len(self.similarities)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trip:
    """What became of one sample of a data set."""

    index: int
    key: str
    references: tuple[str, ...]
    candidates: tuple[Tried, ...]


def begin(folder: Path, settings: Mapping[str, Any]) -> list[Trip]:
    """Make the folder, or take up what is in it.

    Args:
        folder: new, empty, or of an evaluation with the same settings.
        settings: as JSON values.

    Returns:
        The trips that were made already.

    Raises:
        ConfigError: the folder is of an evaluation with other settings; it says which.
        SaveError: it cannot be written.
    """
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / SETTINGS).exists():
            write_json(folder / SETTINGS, dict(settings))
            (folder / TRIPS).write_bytes(b"")
            return []
    _check_same(folder, settings)
    trips, lines = [], []
    for line in _lines(folder / TRIPS):
        try:
            trips.append(from_json(Trip, json.loads(line), path=TRIPS))
        except (ConfigError, ValueError):  # cut off by a kill; its picture is taken again
            continue
        lines.append(line)
    with saving(folder / TRIPS):
        scratch = folder / f".{TRIPS}"
        scratch.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        scratch.replace(folder / TRIPS)
    return trips


def append(folder: Path, trip: Trip) -> None:
    """Write one more line, and force it to the disk.

    Raises:
        SaveError: it cannot be written.
    """
    with saving(folder / TRIPS), open(folder / TRIPS, "a", encoding="utf-8") as file:
        file.write(json.dumps(to_json(trip), ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[str]:
    try:
        # Not splitlines: captions may hold separators that only Python takes for line ends.
        return path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []


def _check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    try:
        known = read_json(folder / SETTINGS)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / SETTINGS} cannot be read ({error}); give another --out"
        ) from None
    given = json.loads(json.dumps(settings))
    if not isinstance(known, dict):
        known = {}
    for name in dict.fromkeys([*given, *known]):
        if known.get(name) != given.get(name):
            raise ConfigError(
                f"{folder} holds an evaluation with {name} {known.get(name)!r}, and {name} is now "
                f"{given.get(name)!r}; give another --out, or the same settings to go on"
            )
