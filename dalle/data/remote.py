"""Files behind http(s): read once from beginning to end, and then in parts."""

import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from dalle.errors import DataError

TIMEOUT = 30.0
"""Seconds without an answer."""
ATTEMPTS = 3
WAIT_SECONDS = 1.0
"""Before the second attempt; twice as long before the third."""
_CHUNK = 2**20

T = TypeVar("T")


def is_remote(place: str) -> bool:
    """Whether a name is an address."""
    return place.lower().startswith(("http://", "https://"))


class RemoteStream:
    """A file that is read forwards; what is passed over is read and forgotten."""

    def __init__(self, response: Any, size: int) -> None:
        self._response = response
        self._position = 0
        self.size = size

    def read(self, size: int, /) -> bytes:
        """As much as that, or less at the end."""
        parts, left = [], size
        while left and (part := self._response.read(min(left, _CHUNK))):
            parts.append(part)
            left -= len(part)
        self._position += size - left
        return b"".join(parts)

    def tell(self) -> int:
        """How many bytes were read."""
        return self._position

    def seek(self, position: int, /) -> int:
        """Forwards only."""
        while self._position < position and self.read(min(_CHUNK, position - self._position)):
            pass
        return self._position


@contextlib.contextmanager
def open_stream(url: str) -> Iterator[RemoteStream]:
    """The whole file, from its beginning.

    Raises:
        DataError: it cannot be had, or breaks off.
    """
    size = _head(url)[0]
    with _again(url, lambda: urllib.request.urlopen(url, timeout=TIMEOUT)) as response:
        try:
            yield RemoteStream(response, size)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{url!r} broke off: {error}") from None


def read_part(url: str, offset: int, size: int) -> bytes:
    """So many bytes from an offset on.

    Raises:
        DataError: they cannot be had.
    """
    asked = {"Range": f"bytes={offset}-{offset + size - 1}"}

    def read() -> bytes:
        request = urllib.request.Request(url, headers=asked)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != 206:
                raise DataError(
                    f"{url!r}: the server gives no parts of files; download the archives first"
                )
            data: bytes = response.read(size)
        if len(data) < size:
            raise OSError(f"{len(data)} bytes came; {size} were asked for")
        return data

    return _again(url, read) if size else b""


def kept_file(url: str, what: str) -> Path:
    """Where things derived from a file are kept: another place as soon as the file is another one.

    Below `$XDG_CACHE_HOME/dalle`, by default ~/.cache/dalle.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dalle" / "tars"
    size, tag = _head(url)
    name = blake2b(json.dumps([url, size, tag, what]).encode(), digest_size=16).hexdigest()
    return cache / f"{name}.json"


def mark(url: str) -> str:
    """What changes when the file does: its length, and its tag or date."""
    size, tag = _head(url)
    return f"{size}/{tag}"


def keep(path: Path, value: object) -> None:
    """Write what was derived; a cache that cannot be written is no cache, and no error."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(value), encoding="utf-8")
        beside.replace(path)


def _head(url: str) -> tuple[int, str]:
    """How long a file is, and what changes when it does."""

    def ask() -> tuple[int, str]:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            headers = response.headers
            tag = headers.get("ETag") or headers.get("Last-Modified") or ""
            return int(headers.get("Content-Length") or -1), tag

    size, tag = _again(url, ask)
    if size < 0:
        raise DataError(f"{url!r}: the server does not say how long it is; download it first")
    return size, tag


def _again(url: str, call: Callable[[], T]) -> T:
    """What a call returns, at the third attempt at the latest."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except (OSError, ValueError, http.client.HTTPException) as error:
            # A ValueError says that it is no address: no attempt will change that.
            gone = isinstance(error, urllib.error.HTTPError) and error.code in (403, 404, 410)
            if gone or isinstance(error, ValueError) or attempt == ATTEMPTS - 1:
                raise DataError(f"{url!r} cannot be read: {error}") from None
            time.sleep(WAIT_SECONDS * 2**attempt)
    raise AssertionError("unreachable")
