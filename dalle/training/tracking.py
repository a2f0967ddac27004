"""What a run says of itself: to the terminal, to metrics.jsonl and to a tracker."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dalle.checkpoint.manifest import saving
from dalle.config import to_json
from dalle.errors import ConfigError
from dalle.training.settings import TrainConfig

METRICS = "metrics.jsonl"
TIME_FIELDS = ("seconds", "samples_per_second")
"""The fields of a line that differ between two runs of the same command."""
HELD_OUT = "held_out/"
ESTIMATE_AFTER_SECONDS = 3.0
PLAIN_LINE_SECONDS = 5.0
WARN_AGAIN_SECONDS = 600.0

log = logging.getLogger(__name__)


class Tracking:
    """The main process's voice; on the others it says nothing."""

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        *,
        name: str,
        start: int,
        speaks: bool,
        settings: Mapping[str, Any],
    ) -> None:
        """Args:
        out: the run's folder.
        config: its settings.
        name: of what is trained, for the bar.
        start: updates done before.
        speaks: whether this is the main process.
        settings: the whole command's, for a tracker.
        """
        self._config, self._speaks = config, speaks
        self._path = out / METRICS
        self._start = self._last_step = self._step = start
        self._began = self._last_time = time.monotonic()
        self._last_line = 0.0
        self._estimated = False
        self._bar: tqdm[Any] | None = None
        self._remote = None
        if not speaks:
            return
        if config.tracker is not None:
            self._remote = RemoteTracker(config.tracker, out, settings)
        with saving(self._path):
            keep_metrics(self._path, up_to=start)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=config.steps, initial=start, desc=name, unit="step", dynamic_ncols=True
            )

    def advance(self, step: int) -> None:
        """An update is done."""
        self._step = step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        elapsed = time.monotonic() - self._began
        # The first updates warm up, so that they are left out of the estimate.
        if not self._estimated and step >= self._start + 3 and elapsed > ESTIMATE_AFTER_SECONDS:
            self._estimated = True
            left = (self._config.steps - step) * elapsed / (step - self._start)
            self.say(f"about {duration(left)} for the {self._config.steps - step} steps left")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line of training numbers."""
        if not self._speaks:
            return
        now = time.monotonic()
        samples = (step - self._last_step) * self._config.batch_size
        rate = samples / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        self._write(
            {
                "step": step,
                **values,
                "seconds": round(now - self._began, 3),
                "samples_per_second": round(rate, 2),
            }
        )
        shown = "  ".join(f"{key} {number(value)}" for key, value in values.items())
        if self._bar is not None:
            self._bar.write(f"step {step}  {shown}", file=sys.stderr)
        elif now - self._last_line >= PLAIN_LINE_SECONDS or step == self._config.steps:
            self._last_line = now
            left = (self._config.steps - step) * (now - self._began) / max(step - self._start, 1)
            self.say(
                f"step {step}/{self._config.steps}  {shown}  {rate:.0f} samples/s  "
                f"{duration(left)} left"
            )

    def held_out(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers on held-out data; the time they took is not counted as training."""
        if not self._speaks:
            return
        self._write({"step": step, **{HELD_OUT + key: value for key, value in values.items()}})
        shown = "  ".join(f"{key} {number(value)}" for key, value in values.items())
        self.say(f"held out, step {step}: {shown}")
        self._last_step, self._last_time = self._step, time.monotonic()

    def say(self, text: str) -> None:
        """A line for people."""
        if not self._speaks:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the file, the bar and the tracker."""
        if not self._speaks:
            return
        self._file.close()
        if self._bar is not None:
            self._bar.close()
        if self._remote is not None:
            self._remote.close()

    def _write(self, line: dict[str, float]) -> None:
        with saving(self._path):
            # JSON has no word for what is not finite.
            plain = {k: v if math.isfinite(v) else None for k, v in line.items()}
            self._file.write(json.dumps(plain, allow_nan=False) + "\n")
            self._file.flush()
        if self._remote is not None:
            self._remote.log(line)


class RemoteTracker:
    """One of accelerate's trackers; what it raises never stops a run."""

    def __init__(self, name: str, out: Path, settings: Mapping[str, Any]) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        available = sorted(tracker.value for tracker in get_available_trackers())
        if name not in available:
            known = sorted(tracker for tracker in LOGGER_TYPE_TO_CLASS)
            what = "is not installed: pip install it" if name in known else "is unknown"
            installed = ", ".join(available) or "none"
            raise ConfigError(f"tracker {name!r} {what}; installed are: {installed}")
        self._name, self._warned = name, -WARN_AGAIN_SECONDS
        self._tracker: Any = None
        cls = LOGGER_TYPE_TO_CLASS[name]
        try:
            folder = {"logging_dir": str(out)} if cls.requires_logging_directory else {}
            self._tracker = cls("dalle", **folder)
            if hasattr(self._tracker, "start"):
                self._tracker.start()
            self._tracker.store_init_configuration(_flat(to_json(dict(settings))))
        except Exception as error:
            self._warn(error)

    def log(self, line: Mapping[str, float]) -> None:
        """Pass a line on."""
        values = {key: value for key, value in line.items() if key != "step"}
        try:
            if self._tracker is not None:
                self._tracker.log(values, step=int(line["step"]))
        except Exception as error:
            self._warn(error)

    def close(self) -> None:
        """Let it finish."""
        try:
            if self._tracker is not None:
                self._tracker.finish()
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned >= WARN_AGAIN_SECONDS:
            self._warned = now
            log.warning("tracker %s failed, training goes on: %s", self._name, error)


def keep_metrics(path: Path, *, up_to: int) -> None:
    """Drop what metrics.jsonl says of steps after `up_to`: they are going to be done again."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            line = json.loads(text)
            if text.endswith("\n") and line["step"] <= up_to:
                kept.append(text)
        except (ValueError, KeyError, TypeError, RecursionError):  # cut short by a kill
            continue
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def number(value: float) -> str:
    """A number for a line: four digits that count."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time for people: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = ((f"{path}.{key}" if path else key, item) for key, item in value.items())
        return {name: leaf for p, item in items for name, leaf in _flat(item, p).items()}
    return {path: value if isinstance(value, (bool, int, float, str)) else str(value)}
