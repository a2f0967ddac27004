"""Signals that ask a run to stop: the step is finished and saved first."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
SAME_PRESS_SECONDS = 1.0


class StopRequest:
    """While it is entered, remembers that the process was asked to stop.

    A second Ctrl-C, at least a second after the first (launchers pass the first one on too),
    raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._pressed: float | None = None
        self._before: dict[str, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None:
                    self._before[name] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, before in self._before.items():
            signal.signal(getattr(signal, name), before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._pressed is not None and now - self._pressed >= SAME_PRESS_SECONDS:
                raise KeyboardInterrupt
            self._pressed = self._pressed or now
        self.signal = signal.Signals(number).name
