"""The file of a text tokenizer: JSON that is small, readable and checked in full."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dalle.errors import CheckpointError, SaveError
from dalle.json_files import read_json

FORMAT = 1
KIND = "text_tokenizer"
MAX_FILE_BYTES = 20 * 2**20
"""Entries are spelled out and not given as numbers of earlier ones, so that this limits them too:
by numbers, a file of a kilobyte could double an entry a hundred times."""
_FIELDS = {"format", "kind", "lowercase", "merges"}


def write_tokenizer(path: Path, merges: Sequence[tuple[str, str]], *, lowercase: bool) -> None:
    """Write the file.

    Raises:
        SaveError: it cannot be written.
    """
    data = {
        "format": FORMAT,
        "kind": KIND,
        "lowercase": lowercase,
        "merges": [f"{left} {right}" for left, right in merges],
    }
    try:
        path.write_text(json.dumps(data, ensure_ascii=False, indent=0), encoding="utf-8")
    except OSError as error:
        raise SaveError(f"cannot write {str(path)!r}: {error.strerror}") from None


def read_tokenizer(path: Path) -> tuple[list[tuple[str, str]], bool]:
    """(merges, lowercase) of a file written by `write_tokenizer`.

    Raises:
        CheckpointError: the file is missing, too large, cut off, of another kind or of a newer
            format, or its fields are not as they were written.
    """
    data = _parse(path)
    if data.get("kind") != KIND:
        raise CheckpointError(f"{str(path)!r} is no text tokenizer of this project")
    if data.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(path)!r} has format {data.get('format')!r}; this version reads {FORMAT}. "
            "Install the version that wrote it, or a newer one"
        )
    merges, lowercase = data.get("merges"), data.get("lowercase")
    if set(data) != _FIELDS or not isinstance(merges, list) or not isinstance(lowercase, bool):
        raise CheckpointError(
            f"{str(path)!r} has the fields {sorted(data)}; expected {sorted(_FIELDS)}, with merges "
            "a list and lowercase true or false"
        )
    return [_pair(merge, path) for merge in merges], lowercase


def _parse(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, most=MAX_FILE_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(
            f"{str(path)!r} is cut off or damaged, or no text tokenizer: {error}"
        ) from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} is no text tokenizer of this project")
    return data


def _pair(merge: Any, path: Path) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else []
    if len(parts) != 2:
        raise CheckpointError(
            f"{str(path)!r}: a merge is {str(merge)[:40]!r}; expected two entries with a space "
            "between them"
        )
    return parts[0], parts[1]
