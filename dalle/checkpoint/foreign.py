"""Other projects' checkpoints as model folders of ours: converted when they are first used."""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from dalle import __version__
from dalle.checkpoint.manifest import MANIFEST, TEMPORARY, hash_file, remove_folder, saving
from dalle.checkpoint.steps import is_run
from dalle.errors import CheckpointError
from dalle.pretrained.family import Converted, Source
from dalle.pretrained.read import SMALL, holds_weights, read, with_tokenizer
from dalle.pretrained.recognize import convert

NON_COMMERCIAL = "NC"
SNAPSHOTS = "snapshots"
MAX_CONFIG_BYTES = 1 << 24

log = logging.getLogger(__name__)


def is_foreign(path: Path) -> bool:
    """Whether a path that exists is something else than a model folder or a run of ours."""
    if path.is_file():
        return True
    config = path / "config.json"
    if is_run(path) or (path / MANIFEST).is_file():
        return False
    if not config.is_file():
        return holds_weights(path)
    # Folders of other packages have a config.json too; ours says its format and kind.
    try:
        fields = json.loads(config.read_bytes()[:MAX_CONFIG_BYTES])
    except (ValueError, RecursionError):
        return False  # whoever reads it says what is wrong
    return isinstance(fields, dict) and not {"format", "kind"} & set(fields)


def converted_folder(path: Path, *, text_tokenizer: Path | None = None) -> Path:
    """The model folder made of a checkpoint, in the user's cache; made when it is not there.

    It is known by the place, size and time of every file of the checkpoint, and by our version.
    One that lacks a tokenizer is made anew each time: what it lacked may be had by now.

    Args:
        path: what `pretrained.read` reads.
        text_tokenizer: the file of its text tokenizer, where that does not lie beside it.

    Raises:
        CheckpointError: the checkpoint is damaged, or of no known family.
        SaveError: the cache cannot be written; `dalle convert` takes any other place.
    """
    cached = user_cache() / "converted" / _fingerprint(path, text_tokenizer)
    if (cached / MANIFEST).is_file() and not _is_incomplete(cached):
        return cached
    log.warning("%s is converted once, into %s", path, cached)
    scratch = cached.parent / f"{TEMPORARY}{os.getpid()}-{cached.name}"
    try:
        write_converted(path, scratch, text_tokenizer=text_tokenizer)
        with saving(cached):
            try:
                if cached.exists() and _is_incomplete(cached):
                    remove_folder(cached)
                os.rename(scratch, cached)
            except OSError:
                if not (cached / MANIFEST).is_file():  # another process was sooner, or it failed
                    raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return cached


def write_converted(path: Path, folder: Path, *, text_tokenizer: Path | None = None) -> Converted:
    """Convert a checkpoint into a model folder that loads without the original.

    A decoder without its tokenizers is converted too, with a warning that says what it lacks.

    Args:
        path: what `pretrained.read` reads.
        folder: the new folder.
        text_tokenizer: the file of its text tokenizer, where that does not lie beside it.

    Raises:
        CheckpointError: the checkpoint is damaged, or of no known family; or the given file is no
            tokenizer of it.
        SaveError: the folder cannot be written.
    """
    from dalle.checkpoint.folder import kind_of, save_model_folder

    source = read(path)
    if text_tokenizer is not None:
        source = with_tokenizer(source, text_tokenizer)
    converted = convert(source)
    if text_tokenizer is not None and converted.text_tokenizer is None:
        raise CheckpointError(f"{text_tokenizer} is not the text tokenizer that {path} needs")
    missing = _missing(converted)
    if missing:
        log.warning("%s draws no pictures without %s", path, "; ".join(missing))
    licence = converted.sighting.licence
    if NON_COMMERCIAL in licence.split("-"):
        log.warning("the weights of %s are for non-commercial use only (%s)", path, licence)
    module: Any = converted.module
    sampling = {"sampling": dict(converted.sampling)} if converted.sampling else {}
    described = _described(source, converted) | ({"missing": missing} if missing else {})
    save_model_folder(
        folder,
        kind=kind_of(module),
        config=module.config,
        module=module,
        extra={**sampling, "source": described},
        text_tokenizer=converted.text_tokenizer,
        image_tokenizer=converted.image_tokenizer,
        reranker=converted.reranker,
    )
    return converted


def _missing(converted: Converted) -> list[str]:
    """What a decoder lacks to draw, in words."""
    from dalle.checkpoint.folder import kind_of
    from dalle.checkpoint.load import DECODERS

    whole = converted.text_tokenizer is not None and converted.image_tokenizer is not None
    if whole or kind_of(converted.module) not in DECODERS:
        return []
    return list(converted.sighting.missing) or ["a tokenizer"]


def _is_incomplete(folder: Path) -> bool:
    source = json.loads((folder / "config.json").read_bytes()).get("source", {})
    return bool(source.get("missing"))


def user_cache() -> Path:
    """Our folder in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dalle"


def _described(source: Source, converted: Converted) -> dict[str, Any]:
    """Where a model came from, for its config.json."""
    files = {weights.path for weights in source.weights if weights.path.is_file()}
    files |= {source.path} if source.path.is_file() else set()
    return {
        "family": converted.sighting.family,
        "version": converted.sighting.version,
        "licence": converted.sighting.licence,
        "sha256": {file.name: _hash(file) for file in sorted(files)},
        "revision": _revision(source),
    }


def _revision(source: Source) -> str | None:
    """The commit, where a file lies in the hub's cache: .../snapshots/COMMIT/file."""
    for path in (source.path, *(weights.path for weights in source.weights)):
        if SNAPSHOTS in path.parts[:-1]:
            return path.parts[path.parts.index(SNAPSHOTS) + 1]
    return None


def _hash(path: Path) -> str:
    """Its SHA-256, which is also the name under which a large file lies in the hub's cache."""
    found, expected = hash_file(path).sha256, path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected) and found != expected:
        raise CheckpointError(
            f"{path} is not the file that the hub has: its SHA-256 differs; delete it, and try "
            "again"
        )
    return found


def _fingerprint(path: Path, text_tokenizer: Path | None) -> str:
    # What is missing in a file may lie beside it.
    kinds = (*SMALL, path.suffix)
    beside = () if path.is_dir() else (p for p in path.parent.iterdir() if p.suffix in kinds)
    found = path.rglob("*") if path.is_dir() else beside
    given = [] if text_tokenizer is None else [text_tokenizer]
    seen = [
        (str(file.resolve()), (status := file.stat()).st_size, status.st_mtime_ns)
        for file in [*sorted(found), *given]
        if file.is_file()
    ]
    said = json.dumps([__version__, str(path.resolve()), bool(given), seen])
    return hashlib.sha256(said.encode()).hexdigest()[:32]
