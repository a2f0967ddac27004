"""A run's folder belongs to one run at a time."""

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from dalle.checkpoint.manifest import saving
from dalle.errors import FolderInUseError

NAME = ".lock"
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 20.0


class FolderLock:
    """Holds `folder` for this process while it is entered.

    On one machine the kernel's own lock decides, which ends with the process however that dies.
    A lock of another machine (a shared disk) counts as alive while its file is touched, which its
    run does every few seconds; after 20 s of silence it is taken over.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._file: int | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "FolderLock":
        with saving(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # POSIX locks, unlike flock's, do not live on in forked loader workers.
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(self._file)
        except BaseException:
            os.close(self._file)
            raise
        self._thread = threading.Thread(target=self._beat, args=(self._file,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread is not None and self._file is not None:
            self._thread.join()
            # Emptied, not deleted: another run may have it open already.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)

    def _take(self, file: int) -> None:
        owner = _read_owner(file)
        if not _lock(file):
            raise FolderInUseError(self._in_use(owner))
        if owner and owner.get("host") != socket.gethostname() and self._beats(file):
            raise FolderInUseError(self._in_use(owner))
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        with saving(self.path):
            os.ftruncate(file, 0)
            os.pwrite(file, text.encode(), 0)

    def _beats(self, file: int) -> bool:
        first = os.fstat(file).st_mtime_ns
        deadline = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 10)
            if os.fstat(file).st_mtime_ns != first:
                return True
        return False

    def _beat(self, file: int) -> None:
        while not self._done.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(file)

    def _in_use(self, owner: dict[str, object]) -> str:
        who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another process"
        return (
            f"{self.path.parent} is in use by another run ({who}); wait for it, stop it, or give "
            "another folder"
        )


def _read_owner(file: int) -> dict[str, object]:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _lock(file: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks: there the folder is not guarded
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
