"""A watch over each process of a run: what it does, and its last words when it hangs or dies."""

import contextlib
import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from dalle.errors import DalleError, Interrupted, RankError

LOGS = "logs"
PULSES = "process-*.json"
LOOKS, LOOK_SECONDS = 5, 0.1
"""How often, and how long apart, it is looked who is gone."""
STEP_SECONDS = 600.0
"""So long may a step take; the first one of a process, and what is no step, `SLOW_SECONDS`."""
SLOW_SECONDS = 3600.0
BEAT_SECONDS = 5.0
SILENT_SECONDS = 15.0
STDERR = 2
MESSAGE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Watch:
    """While it is entered, one process of many has a log, a pulse, and an end when it hangs.

    A process alone has none of it: its terminal says what it does.


    `logs/process-00001.log` gets what the process warns of, and its stack when it hangs, crashes
    or fails. `logs/process-00001.json`, written every few seconds, says what it does.
    """

    def __init__(self, out: Path, *, rank: int, size: int) -> None:
        """Args:
        out: the run's folder.
        rank, size: which process this is, of how many.
        """
        self._name, self._alone = f"process {rank} of {size}", size == 1
        self._log, self._pulse = (log_path(out, rank).with_suffix(s) for s in (".log", ".json"))
        self._place, self._limit, self._since = "start", SLOW_SECONDS, time.monotonic()
        self._done = threading.Event()
        self._stack = contextlib.ExitStack()

    def at(self, place: str, *, limit: float) -> None:
        """Say what comes now, and how many seconds it may take at most."""
        self._place, self._limit, self._since = place, limit, time.monotonic()

    def __enter__(self) -> "Watch":
        if self._alone:
            return self
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._stack.enter_context(self._log.open("a", encoding="utf-8"))
        handler = logging.StreamHandler(self._file)
        handler.setFormatter(logging.Formatter(MESSAGE))
        logging.getLogger("dalle").addHandler(handler)
        self._stack.callback(logging.getLogger("dalle").removeHandler, handler)
        # A crash in foreign code leaves its stack there too.
        faulthandler.enable(self._file)
        self._stack.callback(faulthandler.disable)
        self._write(f"{self._name} begins: pid {os.getpid()} on {socket.gethostname()}")
        self._show(seconds=0.0)
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._done.set)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        if self._alone:
            return
        if error is not None and not isinstance(error, Interrupted):
            self._write("".join(traceback.format_exception(error)))
            said = str(error) if isinstance(error, DalleError) else repr(error)
            self._complain(f"failed in {self._place}: {said}", lost=isinstance(error, RankError))
        self._pulse.unlink(missing_ok=True)
        self._stack.close()

    def _beat(self) -> None:
        while not self._done.wait(min(BEAT_SECONDS, self._limit / 4)):
            seconds = time.monotonic() - self._since
            self._show(seconds=seconds)
            if seconds > self._limit:
                self._give_up(seconds)

    def _show(self, *, seconds: float) -> None:
        said = {"pid": os.getpid(), "host": socket.gethostname(), "at": self._place}
        fresh = self._pulse.with_suffix(".new")
        with contextlib.suppress(OSError):  # see _write
            fresh.write_text(json.dumps({**said, "seconds": round(seconds, 1)}))
            fresh.replace(self._pulse)  # whoever is killed while writing leaves the last one whole

    def _give_up(self, seconds: float) -> None:
        self._complain(f"has been in {self._place} for {seconds:.0f} s and ends", lost=True)
        stack = b""
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(0, os.SEEK_END)
            faulthandler.dump_traceback(self._file)
            stack = log.read()
        # In one piece: others may hang, and say so at the same moment, on the same terminal.
        with contextlib.suppress(OSError):
            os.write(STDERR, stack) if stack else faulthandler.dump_traceback(STDERR)
        # Nothing less ends a process whose main thread waits for what does not come.
        os._exit(RankError.exit_status)

    def _complain(self, what: str, *, lost: bool) -> None:
        others = [f"; {line}" for line in self._others()] if lost else []
        line = f"{self._name} ({socket.gethostname()}) {what}{''.join(others)}; see {self._log}"
        self._write(line)
        print(f"dalle: {line}", file=sys.stderr, flush=True)

    def _others(self) -> list[str]:
        """Who is gone. A process that ends lets go of its connections before it counts as dead."""
        for _ in range(LOOKS):
            if found := list(silent_processes(self._log.parent)):
                return found
            time.sleep(LOOK_SECONDS)
        return []

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason to lose what is said besides
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._file.flush()


def log_path(out: Path, rank: int) -> Path:
    """Where process `rank` of the run in `out` writes what it has to say."""
    return out / LOGS / f"process-{rank:05}.log"


def forget_processes(out: Path) -> None:
    """Delete the pulses that an earlier run left, whose processes are not ours."""
    for path in (out / LOGS).glob(PULSES):
        path.unlink(missing_ok=True)


def silent_processes(folder: Path) -> Iterator[str]:
    """Which processes of a run have died or stopped, as far as their pulses tell, and where.

    Args:
        folder: that of the logs.
    """
    for path in sorted(folder.glob(PULSES)):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            age = time.time() - path.stat().st_mtime
        except (OSError, ValueError):  # it is just being written
            continue
        name = f"process {int(path.stem.partition('-')[2])} (pid {said['pid']} on {said['host']})"
        if said["host"] == socket.gethostname() and not _lives(said["pid"]):
            yield f"{name} is dead, after {said['at']}"
        elif age > SILENT_SECONDS:
            yield f"{name} has been silent for {age:.0f} s, in {said['at']}"


def _lives(pid: int) -> bool:
    try:
        # Dead processes keep their place until whoever started them has looked.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
