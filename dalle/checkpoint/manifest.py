"""Folders that are either whole or absent, and the manifest that says which."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from safetensors import SafetensorError

from dalle.errors import CheckpointError, SaveError
from dalle.json_files import read_json

MANIFEST = "MANIFEST.json"
TEMPORARY = ".tmp-"
CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What the manifest says of one file."""

    bytes: int
    sha256: str


def hash_file(path: Path, *, sync: bool = False) -> Entry:
    """Size and SHA-256 of a file.

    Args:
        path: a regular file.
        sync: also force its content to the disk.
    """
    digest, size = hashlib.sha256(), 0
    # fsync needs a descriptor that may be written to on some file systems.
    with open(path, "r+b" if sync else "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(file.fileno())
    return Entry(bytes=size, sha256=digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, *, known: Mapping[str, Entry] | None = None) -> None:
    """Flush every file of `folder`, then write its manifest, then flush that.

    Args:
        folder: holds the finished files.
        known: entries of files that are hard links to already flushed ones, by relative name;
            they are not read again, so that damage to the first is not blessed in the second.
    """
    known = known or {}
    entries: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name == MANIFEST:
            continue
        entry = known[name] if name in known else hash_file(path, sync=True)
        entries[name] = {"bytes": entry.bytes, "sha256": entry.sha256}
    write_synced(folder / MANIFEST, json.dumps({"format": 1, "files": entries}, indent=1) + "\n")
    for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        sync_folder(inner)
    sync_folder(folder)


def write_synced(path: Path, text: str) -> None:
    """Write a small text file and force it to the disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: object) -> None:
    """Write JSON values, readable by people."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Entry]:
    """The manifest's entries by relative name.

    Raises:
        CheckpointError: it is missing or not a manifest.
    """
    path = folder / MANIFEST
    try:
        files = read_json(path)["files"]
        return {
            str(name): Entry(bytes=int(entry["bytes"]), sha256=str(entry["sha256"]))
            for name, entry in files.items()
        }
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no {MANIFEST}: it was not written to its end"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error})") from None


def verify(folder: Path, *, training: bool, skip: tuple[str, ...] = ()) -> dict[str, Entry]:
    """Compare the files of `folder` with its manifest, sizes first, then hashes.

    Args:
        folder: a model folder.
        training: whether what only training needs (`training/`, run.json) must be there; it may be
            deleted.
        skip: relative names that are not to be read.

    Returns:
        The manifest's entries.

    Raises:
        CheckpointError: names the first file that is missing, cut short or changed.
    """
    entries = read_manifest(folder)
    needed = {
        name: entry
        for name, entry in entries.items()
        if name not in skip and (training or not _for_training(name))
    }
    for name, entry in needed.items():
        if not _inside(name):
            raise CheckpointError(f"{folder / MANIFEST} names a file outside its folder: {name!r}")
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, although {MANIFEST} lists it")
        size = path.stat().st_size
        if size != entry.bytes:
            how = "truncated" if size < entry.bytes else "damaged"
            raise CheckpointError(f"{path} is {how}: {size} bytes, {MANIFEST} says {entry.bytes}")
    for name, entry in needed.items():
        if hash_file(folder / name).sha256 != entry.sha256:
            raise CheckpointError(
                f"{folder / name} is damaged: its content is not what {MANIFEST} says (SHA-256); "
                "copy it again or take another checkpoint"
            )
    return entries


@contextmanager
def saving(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn what the disk refuses into a SaveError that names the path and the space.

    Args:
        path: what is being written.
        needed: its size in bytes, where known.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and "os error" not in str(error):
            raise
        raise SaveError(_save_message(path, needed, error)) from error


def _save_message(path: Path, needed: int | None, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    message = f"cannot write {path}: {reason}"
    existing = next((p for p in [path, *path.parents] if p.exists()), Path("/"))
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        return message
    if needed is not None:
        message += f"; it needs about {needed / 1e6:,.1f} MB"
    return (
        f"{message}; {free / 1e6:,.1f} MB are free there. What was saved before is untouched: "
        "make room (or make the folder writable) and run the same command again"
    )


def temporary_beside(target: Path, tag: str) -> Path:
    """The name under which `target` is written before it is whole."""
    return target.parent / f"{TEMPORARY}{tag}-{os.getpid()}"


def publish(temporary: Path, target: Path, *, known: Mapping[str, Entry] | None = None) -> None:
    """Give the finished folder its name: manifest last, rename, flush the parent.

    What has the name already (a step that was found damaged, and done again) goes first.
    """
    write_manifest(temporary, known=known)
    if target.exists():
        remove_folder(target)
    os.rename(temporary, target)
    sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Delete it so that a kill in between leaves no half folder of its name."""
    doomed = temporary_beside(folder, f"gone-{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def whole_folder(target: Path, tag: str) -> Iterator[Path]:
    """A folder to write into that becomes `target` when the block ends without an error.

    A kill at any moment leaves either no `target` or a whole one.

    Args:
        target: must not exist yet.
        tag: part of the temporary name.

    Raises:
        SaveError: something could not be written; nothing is left behind.
    """
    temporary = temporary_beside(target, tag)
    with saving(target):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            publish(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _for_training(name: str) -> bool:
    return name == "run.json" or name.startswith("training/")


def _inside(name: str) -> bool:
    """Whether it is a plain name below the folder; messages repeat it, so it must be printable."""
    path = PureWindowsPath(name)
    plain = "\\" not in name and name.isprintable()
    return plain and not path.anchor and ".." not in path.parts
