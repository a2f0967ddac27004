"""float16's loss scale: raised while gradients are finite, lowered when they are not."""

from collections.abc import Mapping
from typing import Any

from dalle.errors import NonFiniteError

SMALLEST_SCALE = 2.0**-10
FIRST_SCALE, FACTOR, INTERVAL = 2.0**16, 2.0, 2000
"""Those of torch's GradScaler, whose saved state is this one's too."""


class LossScale:
    """torch's GradScaler as far as a scale goes, for an engine that multiplies and divides itself.

    DeepSpeed's own scaling under torch's autocast never lowers its scale after an overflow, and
    clips gradients that are still scaled.
    """

    def __init__(self) -> None:
        self.scale = FIRST_SCALE
        self._finite_updates = 0

    def update(self, *, finite: bool) -> None:
        """Follow an update whose gradients were finite, or were not."""
        self._finite_updates = self._finite_updates + 1 if finite else 0
        if not finite:
            self.scale /= FACTOR
        elif self._finite_updates == INTERVAL:
            self.scale, self._finite_updates = self.scale * FACTOR, 0

    def state_dict(self) -> dict[str, Any]:
        """As GradScaler gives its own."""
        return {
            "scale": self.scale,
            "growth_factor": FACTOR,
            "backoff_factor": 1 / FACTOR,
            "growth_interval": INTERVAL,
            "_growth_tracker": self._finite_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.scale = float(state["scale"])
        self._finite_updates = int(state["_growth_tracker"])


def check_scale(scale: float) -> None:
    """Refuse to go on when no scale is small enough.

    Raises:
        NonFiniteError: the gradients overflow at every loss scale.
    """
    if scale < SMALLEST_SCALE:
        raise NonFiniteError("float16 overflows at every loss scale; use bfloat16")
