"""Stopping when held-out data gains no more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True, slots=True)
class Gain:
    """The lowest held-out loss of a run, and how many looks there were since."""

    patience: int
    """Looks without a new lowest loss after which the run ends; 0: never."""
    lowest: float = math.inf
    looks: int = 0

    @classmethod
    def of(cls, patience: int, state: Mapping[str, Any] | None) -> "Gain":
        """As a checkpoint remembers it; from the beginning without one."""
        lowest, looks = (state or {}).get("lowest"), (state or {}).get("looks")
        return cls(
            patience=patience,
            lowest=float(lowest) if isinstance(lowest, (int, float)) else math.inf,
            looks=looks if isinstance(looks, int) else 0,
        )

    def look(self, loss: float) -> None:
        """Take note of a loss."""
        self.looks = 0 if loss < self.lowest else self.looks + 1
        self.lowest = min(self.lowest, loss) if math.isfinite(loss) else self.lowest

    @property
    def over(self) -> bool:
        """Whether the run ends here."""
        return 0 < self.patience <= self.looks

    def state(self) -> dict[str, float | int | None]:
        """For a checkpoint."""
        return {"lowest": self.lowest if math.isfinite(self.lowest) else None, "looks": self.looks}
