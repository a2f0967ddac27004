"""Other projects' models, each in a process of its own that does one step when it is asked to."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

WORKER = Path(__file__).parent / "peer.py"


class Peer:
    """One of them; called, it does a step and gives the seconds that it took."""

    def __init__(self, name: str, mode: str, *, batch: int, precision: str, folder: Path) -> None:
        # Without our own package on the way, whose name another one has too, and with pages of
        # memory as they take them.
        ours = ("PYTHONPATH", "THP_MEM_ALLOC_ENABLE")
        clean = {k: v for k, v in os.environ.items() if k not in ours}
        extra = os.environ.get("PEERS_PATH")
        if extra:
            clean["PYTHONPATH"] = extra
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), name, mode, str(batch), precision, str(folder)],
            env=clean,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        while (line := self._read()) != "ready":
            print(f"{name}: {line}", file=sys.stderr)

    def __call__(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self._process.args))} ended")  # type: ignore[arg-type]
        return line.strip()


@contextmanager
def peers(
    names: list[str], mode: str, *, batch: int, precision: str, folder: Path | None
) -> Iterator[dict[str, Peer]]:
    """Those in `folder`, by name; none without one."""
    with ExitStack() as stack:
        started = {}
        for name in names if folder is not None else ():
            assert folder is not None
            peer = Peer(name, mode, batch=batch, precision=precision, folder=folder.resolve())
            stack.callback(peer.close)
            started[name] = peer
        yield started
