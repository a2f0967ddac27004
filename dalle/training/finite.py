"""Updates whose loss or gradient is not finite: left out, counted, and too many of them told."""

import math
from collections import deque
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.errors import NonFiniteError

IN_A_ROW = 5
"""So many skipped updates in a row end the run, or take it back to its last checkpoint."""
RECENT_STEPS, RECENT_SKIPPED = 1000, 10
"""So do more than `RECENT_SKIPPED` among the last `RECENT_STEPS`."""


def poisoned(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The same loss, whose gradient is not a number where the loss is not finite.

    A gradient may be finite although its loss is not. Gradients are what all processes come to
    share: in this way all of them notice at once, without another word between them.
    """
    return loss * (1.0 + 0.0 * loss.detach())


class FiniteCheck:
    """Looks whether gradients were finite; on GPUs one step late, so as not to wait for them.

    All processes see the same norms, and so come to the same judgement at the same step.
    """

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        """Args:
        saved: what `state` gave when the run was saved; None for a new run.
        """
        saved = saved or {}
        self.count = int(saved.get("count", 0))
        """Updates that were skipped since the run began."""
        self._recent: deque[int] = deque(saved.get("recent", []))
        self._pending: deque[tuple[int, Tensor, Any]] = deque()
        self._news: list[int] = []

    def state(self) -> dict[str, Any]:
        """As JSON values, to go on with the same memory; after `flush`."""
        return {"count": self.count, "recent": list(self._recent)}

    def watch(self, step: int, grad_norm: Float[Tensor, ""]) -> None:
        """Take the norm of update number `step`, and judge what is there.

        Raises:
            NonFiniteError: too many were not finite.
        """
        norm, event = grad_norm.detach(), None
        if norm.device.type == "cuda":
            norm = norm.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append((step, norm, event))
        self._judge(keep=0 if event is None else 1)

    def flush(self) -> None:
        """Judge everything up to here.

        Raises:
            NonFiniteError: too many were not finite.
        """
        self._judge(keep=0)

    def news(self) -> list[int]:
        """The updates that were skipped since this was asked last."""
        news, self._news = self._news, []
        return news

    def _judge(self, *, keep: int) -> None:
        while len(self._pending) > keep:
            step, norm, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            if not math.isfinite(norm.item()):
                self._skipped(step)

    def _skipped(self, step: int) -> None:
        self.count += 1
        self._news.append(step)
        self._recent.append(step)
        while self._recent[0] <= step - RECENT_STEPS:
            self._recent.popleft()
        row = 1
        while step - row in self._recent:
            row += 1
        if row < IN_A_ROW and len(self._recent) <= RECENT_SKIPPED:
            return
        many = (
            f"in {row} updates in a row"
            if row >= IN_A_ROW
            else f"in {len(self._recent)} of the last {RECENT_STEPS} updates"
        )
        raise NonFiniteError(
            f"the loss or its gradient was infinite or not a number {many}, the last of them "
            f"number {step}; none of these changed the weights. Start from an earlier checkpoint "
            "with a lower lr, with clip_norm, or with precision float32"
        )
