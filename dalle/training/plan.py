"""What each strategy would hold on every GPU and host, from counted bytes, and how long it takes.

What DeepSpeed and FSDP2 hold beside the shares is read from their code; docs/planning.md lists it.
"""

import math
from dataclasses import dataclass

from dalle.training.memory import ModelSize, StepMemory
from dalle.training.zero_update import BUCKET

STRATEGIES = (
    "single",
    "ddp",
    "zero1",
    "zero2",
    "zero2-offload",
    "zero3",
    "zero3-offload",
    "fsdp2",
    "fsdp2-offload",
)
"""By the names of `dalle launch-config`, and one process."""
ZERO3_LIVE = 4 * (1_000_000_000 + 50_000_000)
"""Of weights that DeepSpeed's stage 3 has gathered and fetches ahead, at most."""
SECONDS_A_DAY = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How a model would be trained, as far as its memory goes."""

    strategy: str
    gpus: int
    micro_batches: int
    averages: bool
    """Whether averaged weights are kept."""
    frozen: int = 0
    """Bytes of a frozen model beside it, whole on every GPU."""
    frozen_work: int = 0
    """The most that it needs at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Bytes of one process. The peak is less than the sum where gradients come as activations go,
    and more by what is gathered and sent."""

    weights: int
    gradients: int
    moments: int
    averages: int
    saved: int
    """Activations of a micro-batch that wait for its backward pass, casts of weights included."""
    peak: int
    """On the GPU."""
    host: int
    """In the host's memory, by offload."""


def held(size: ModelSize, step: StepMemory, setting: Setting) -> Held:
    """What a process holds; on the GPU, but for `host`."""
    strategy, _, offload = setting.strategy.partition("-")
    whole = size.whole
    part = size.part(setting.gpus, by_rows=strategy == "fsdp2")
    divides_weights = strategy in ("zero3", "fsdp2")
    weights = part if divides_weights else whole
    if strategy.startswith("zero"):
        weights += part  # the optimizer's own
    gradients = part if divides_weights or strategy == "zero2" else whole
    moments = 2 * (whole if strategy in ("single", "ddp") else part)
    averages = setting.averages * (part if divides_weights else whole)
    on_host, steady = 0, weights + moments + averages
    if offload and divides_weights:
        on_host, steady = weights + gradients + moments + averages, 0
    elif offload:
        on_host, steady = part + gradients + moments, whole + averages
    steady += size.buffers * (2 if averages and not divides_weights else 1) + setting.frozen
    kept_gradients = 0 if offload else gradients
    if strategy == "single" and setting.micro_batches == 1:
        busy = max(step.with_gradients, gradients)
    else:
        busy = kept_gradients + step.work + _on_the_way(size, strategy)
    if strategy in ("zero1", "zero2"):
        # Of its gradients the optimizer takes a copy in one piece.
        busy = max(busy, kept_gradients + (0 if offload else part))
    return Held(
        weights=weights,
        gradients=gradients,
        moments=moments,
        averages=averages,
        saved=step.saved,
        peak=steady + max(busy, setting.frozen_work),
        host=on_host,
    )


def _on_the_way(size: ModelSize, strategy: str) -> int:
    """Bytes of weights that are gathered and of gradients that are not yet where they belong."""
    bucket = 4 * min(size.parameters, BUCKET)
    if strategy == "fsdp2":
        # What is in no layer stays gathered with its gradients; of layers, one and the next,
        # and one's gradients with what is made of them to be sent.
        return 2 * size.outside + 4 * size.layer
    if strategy == "zero3":
        return bucket + min(size.whole, ZERO3_LIVE) + size.largest
    if strategy in ("zero1", "zero2"):
        return bucket + size.largest
    return size.largest


def fitting_samples(
    size: ModelSize,
    few: tuple[int, StepMemory],
    many: tuple[int, StepMemory],
    setting: Setting,
    *,
    memory: int,
) -> int:
    """The largest micro-batch that fits, on the straight line through two that were counted.

    Args:
        size: the model's.
        few, many: samples of a micro-batch, and what was counted; they may be the same.
        setting: how it is trained.
        memory: bytes of a GPU.

    Returns:
        0 where not even one sample fits.
    """
    low, high = held(size, few[1], setting).peak, held(size, many[1], setting).peak
    if low > memory:
        return 0
    if high <= memory:
        return many[0]
    slope = (high - low) / (many[0] - few[0])
    return few[0] + math.floor((memory - low) / slope)


def days(flop: float, *, samples: int, gpus: int, tflops: float) -> float:
    """Days that so many samples take.

    Args:
        flop: of one sample, forward and backward.
        samples: all that are seen.
        gpus: how many.
        tflops: what one of them reaches in a training step, in TFLOP/s.
    """
    return flop * samples / (gpus * tflops * 1e12) / SECONDS_A_DAY
