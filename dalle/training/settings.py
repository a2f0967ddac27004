"""What a run is told: how long, how fast, how often."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from dalle.errors import ConfigError
from dalle.training.optim import OptimConfig

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda", "mps"]

FREE = frozenset(
    {
        "micro_batches",
        "recompute",
        "compile",
        "num_workers",
        "max_bad",
        "cache",
        "device",
        "tracker",
        "log_every",
        "validate_every",
        "validate_samples",
        "preview_every",
        "save_every",
        "keep_last",
        "keep_every",
        "out",
    }
)
"""Settings that may change when a run goes on: they leave the weights alone, but for rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The settings of the training loop that are the same for every model."""

    steps: int
    """Updates in all."""
    batch_size: int
    """Samples in one update, over all processes and micro-batches."""
    micro_batches: int = 1
    """Parts of one process's share of a batch that go through the model one after another;
    more of them need less memory."""
    recompute: bool = False
    """Whether a transformer's layers forget what they computed until it is needed, and compute it
    again then: much less memory for about a third more time. A discrete VAE has no such layers."""
    compile: bool = False
    """Whether a transformer's layers go through `torch.compile`, all by the same code, around their
    attention: it changes rounding alone. A discrete VAE has no such layers."""
    powersgd_rank: int | None = None
    """Under DDP: send of each gradient a product of two matrices of so many columns, from the end
    of the step size's warm-up on; None sends all of it."""
    seed: int = 0
    precision: Precision = "auto"
    """auto: bfloat16 on GPUs that have it, float32 elsewhere."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora_rank: int | None = None
    """Train pairs of matrices of so many columns beside the layers, and leave the weights that the
    run starts from alone; None trains all weights."""
    ema_decay: float | None = None
    """Of the averaged weights, per application; None keeps none."""
    ema_every: int = 1
    """Updates between two applications."""
    log_every: int = 20
    validate_every: int = 500
    """Updates between two looks at held-out data; 0: only at the end."""
    validate_samples: int = 512
    """Held-out samples that are looked at, always the same ones; 0: none at all."""
    stop_after_no_gain: int = 0
    """Looks at held-out data without a new lowest loss after which the run ends; 0: never. Each
    step with a new lowest one is saved, and the lowest of all stands for the run."""
    preview_every: int = 1000
    """Updates between two previews; 0: none at all."""
    save_every: int = 1000
    """Updates between two checkpoints; the end is always saved."""
    keep_last: int = 2
    """How many of the newest checkpoints stay, beside the best one."""
    keep_every: int = 0
    """Checkpoints of steps that are a multiple of it stay for good; 0: none for that reason."""
    num_workers: int | None = 0
    """Processes that read data, per process that trains; None: `data.worker_count` chooses."""
    max_bad: float = 0.01
    """Share of the samples read so far, in [0, 1], that may be damaged before the run stops."""
    device: Device = "auto"
    tracker: str | None = None
    """One of accelerate's trackers (tensorboard, wandb, ...), besides metrics.jsonl."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "micro_batches", "log_every", "save_every"):
            _at_least(self, name, 1)
        for name in (
            "validate_every",
            "validate_samples",
            "stop_after_no_gain",
            "preview_every",
            "keep_every",
            "seed",
        ):
            _at_least(self, name, 0)
        if self.num_workers is not None:
            _at_least(self, "num_workers", 0)
        _at_least(self, "keep_last", 1)
        for name in ("powersgd_rank", "lora_rank"):
            if getattr(self, name) is not None:
                _at_least(self, name, 1)
        if self.stop_after_no_gain and not (self.validate_every and self.validate_samples):
            raise ConfigError(
                "stop_after_no_gain counts looks at held-out data, of which there are none; set "
                "validate_every and validate_samples"
            )
        if not 0 <= self.max_bad <= 1:
            raise ConfigError(f"max_bad is {self.max_bad}; expected a share, 0 ... 1")
        if self.batch_size % self.micro_batches:
            raise ConfigError(
                f"batch_size {self.batch_size} is no multiple of micro_batches "
                f"{self.micro_batches}; change one of them"
            )


def _at_least(config: TrainConfig, name: str, least: int) -> None:
    value = getattr(config, name)
    if value < least:
        raise ConfigError(f"{name} is {value}; expected {least} or more")


def differences(then: object, now: object, *, allowed: tuple[str, ...] = ()) -> list[str]:
    """Lines that say where two nested settings differ, without those that may; each change once.

    Args:
        then: JSON values of a run's beginning.
        now: those of this command.
        allowed: further field names or dotted paths that may differ.
    """
    old, new = _flat(then), _flat(now)
    lines, told = [], set()
    for path in [*old, *(p for p in new if p not in old)]:
        names = path.split(".")
        if path not in old and not new[path]:
            continue  # an option that the run's version did not have yet, and that is off
        if old.get(path) == new.get(path) or FREE & set(names):
            continue
        if any(path == a or path.startswith(f"{a}.") or a in names for a in allowed):
            continue
        before, after = (side.get(path, "not set") for side in (old, new))
        change = f"{names[-1]}: {before!r} then, {after!r} now"
        if change not in told:  # settings are kept as the user gave them and as they are used
            told.add(change)
            lines.append(f"{path.removesuffix(names[-1])}{change}")
    return lines


def _flat(value: object, path: str = "") -> dict[str, object]:
    if dataclasses.is_dataclass(value):
        raise TypeError("expected JSON values")
    if not isinstance(value, dict):
        return {path: value}
    flat = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{path}.{key}" if path else str(key)))
    return flat
