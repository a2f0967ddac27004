"""Every call that writes a checkpoint, as a place to look at the disk, to fail or to die."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from dalle.checkpoint import folder
from dalle.training import optimizer_state

STEPS = (".tmp-", "step-")
EVENTS = ("open", "os.rename", "os.mkdir", "os.link", "shutil.rmtree")
Visit = Callable[[int, str, Path], None]
"""Number, name and path of the call that comes next."""

_visits: list[Callable[[str, Path], None]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _visits and event in EVENTS and isinstance(args[0], (str, Path)):
        path = Path(args[1] if event == "os.rename" else args[0])
        if event != "open" or args[2] & (os.O_WRONLY | os.O_RDWR):
            for visit in list(_visits):
                visit(event, path)


sys.addaudithook(_audit)


class Failpoints:
    """While it is entered, `visit` is called before each call, which it may prevent by an error."""

    def __init__(self, run: Path, visit: Visit) -> None:
        """Args:
        run: calls count that write below its steps, half-written ones among them.
        visit: what is done before each.
        """
        self._run, self._visit, self.count = run, visit, 0
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "Failpoints":
        for module in (folder, optimizer_state):
            self._patch.setattr(module, "save_file", self._before("tensors", module.save_file, 1))
        self._patch.setattr(os, "fsync", self._before("fsync", os.fsync, 0))
        _visits.append(self._count)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _visits.remove(self._count)
        self._patch.undo()

    def _before(self, name: str, call: Callable[..., Any], argument: int) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            where = args[argument]
            path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else where
            self._count(name, Path(path))
            return call(*args, **options)

        return counted

    def _count(self, name: str, path: Path) -> None:
        if not path.is_relative_to(self._run):
            return
        if path != self._run and not path.relative_to(self._run).parts[0].startswith(STEPS):
            return
        self.count += 1
        self._visit(self.count, name, path)
