"""Work that goes on beside the training, one piece at a time."""

import threading
from collections.abc import Callable


class Background:
    """A thread that is given one piece of work after another, and keeps what goes wrong."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether the work is still going on."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def error(self) -> BaseException | None:
        """What ended the last piece of work early; None while it is going on or went well."""
        return None if self.busy else self._error

    def start(self, work: Callable[[], object]) -> None:
        """Begin; what was begun before must have ended."""
        if self.busy:
            raise RuntimeError("the work before has not ended")
        self._error = None

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        # Not a daemon: an interpreter that ends waits for it, so that no save is cut off.
        self._thread = threading.Thread(target=run, name="saving", daemon=False)
        self._thread.start()

    def join(self) -> None:
        """Wait for its end, well or not."""
        if self._thread is not None:
            self._thread.join()
