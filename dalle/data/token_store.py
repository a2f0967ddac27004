"""The token cache on the disk: codes or vectors, by the content of the pictures they are of.

    FOLDER/made/<pictures>.npy              pictures x views x rows x cols, or x numbers of a vector
                <pictures>.contents.npy     what is in the file of each picture, as a hash
    FOLDER/seen/<names and marks>.json      which pictures some samples were when they were read

FOLDER belongs to one model and transform. A picture that is moved, renamed, copied or listed in
another data set finds what was made of it; one whose bytes have changed does not. A file is there
whole or not at all.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from dalle.errors import DataError, SaveError

RETRY_SECONDS = 600.0
"""After so long, files that could not be read are tried again; processes that begin together agree
on what there is."""
_CONTENT = np.dtype("S32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What samples were when they were last read, by their number."""

    contents: list[str]
    """Hash of each picture's file; empty where there is nothing to find by it."""
    damaged: dict[str, str] = field(default_factory=dict)
    """What is wrong with those that cannot be decoded."""
    unread: dict[str, str] = field(default_factory=dict)
    """Why others could not be read, which may pass."""


def content_of(data: bytes) -> str:
    """The hash of a picture's file."""
    return blake2b(data, digest_size=16).hexdigest()


class Store:
    """What one model makes of one transform of pictures, as it was on the disk when last seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self._contents = np.zeros(0, dtype=_CONTENT)
        self._places = np.zeros((0, 2), dtype=np.int32)
        self.look()

    def look(self) -> None:
        """Take in what other processes have added."""
        listed = sorted((self.folder / "made").glob("*.contents.npy"))
        contents = [np.array(load_array(path)) for path in listed]
        self.files = [path.with_name(path.name.replace(".contents.", ".")) for path in listed]
        places = [
            np.stack([np.full(len(c), number), np.arange(len(c))], axis=1)
            for number, c in enumerate(contents)
        ]
        together = np.concatenate([self._contents[:0], *contents]).astype(_CONTENT)
        order = np.argsort(together, kind="stable")
        self._contents = together[order]
        self._places = np.concatenate([self._places[:0], *places])[order].astype(np.int32)

    def find(self, contents: Sequence[str]) -> np.ndarray:
        """Number of the file and of the row in it, n x 2, of pictures; -1 where there is none."""
        wanted = np.array(contents, dtype=_CONTENT)
        found = np.full((len(wanted), 2), -1, dtype=np.int32)
        if len(self._contents):
            near = np.searchsorted(self._contents, wanted).clip(max=len(self._contents) - 1)
            same = self._contents[near] == wanted
            found[same] = self._places[near[same]]
        return found

    def made(self, number: int) -> np.ndarray:
        """What is in one file, mapped into memory."""
        return load_array(self.files[number])

    def add(self, contents: Sequence[str], made: np.ndarray) -> None:
        """Put what was made of pictures into a file of their own.

        Raises:
            SaveError: it cannot be written.
        """
        name = blake2b("".join(contents).encode(), digest_size=16).hexdigest()
        write_array(self.folder / "made" / f"{name}.npy", made)
        hashes = np.array(contents, dtype=_CONTENT)
        write_array(self.folder / "made" / f"{name}.contents.npy", hashes)

    def seen(self, name: str) -> Seen | None:
        """What samples were when they were read; None where they were not."""
        path = self._seen(name)
        try:
            return Seen(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} of the token cache cannot be read: {error}") from None

    def remember(self, name: str, seen: Seen) -> None:
        """Write down what samples were.

        Raises:
            SaveError: it cannot be written.
        """
        path = self._seen(name)
        beside = _beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(asdict(seen)), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from None
        finally:
            beside.unlink(missing_ok=True)

    def is_whole(self, name: str) -> bool:
        """Whether all that can be had of these samples is there."""
        seen = self.seen(name)
        if seen is None:
            return False
        if seen.unread and time.time() - self._seen(name).stat().st_mtime > RETRY_SECONDS:
            return False
        return bool((self.find([c for c in seen.contents if c]) >= 0).all())

    def _seen(self, name: str) -> Path:
        return self.folder / "seen" / f"{name}.json"


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all.

    Raises:
        SaveError: it cannot be written.
    """
    beside = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        beside.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        beside.unlink(missing_ok=True)


def load_array(path: Path) -> np.ndarray:
    """A .npy file, mapped into memory.

    Raises:
        DataError: it is gone or damaged.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} of the token cache cannot be read: {error}. Delete it; what was in it is made "
            "again"
        ) from None
    return array


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _unwritable(path: Path, error: OSError) -> SaveError:
    return SaveError(f"{path} of the token cache cannot be written: {error.strerror}")
