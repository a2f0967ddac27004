"""JSON files of unknown origin: small, regular, not too deep, with numbers that are numbers."""

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 16 * 2**20


def read_json(path: Path, *, most: int = MAX_BYTES) -> Any:
    """The values in a file.

    Args:
        path: the file; anything else of that name, such as a pipe, is not waited for.
        most: longer files are not read.

    Raises:
        OSError: it is not there, cannot be read, or is no regular file.
        ValueError: it is too long, no JSON, or nested deeper than Python can follow.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "not a regular file")
        if info.st_size > most:
            raise ValueError(f"it has {info.st_size} bytes; at most {most} are read")
        data = file.read(most)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
