"""What the three models' runs have in common, as flags; torch is loaded only by the methods.

The values become the real configs of `dalle.training` when a run starts, and are checked there.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dalle.errors import ConfigError

if TYPE_CHECKING:
    from dalle.training.optim import OptimConfig
    from dalle.training.schedules import Schedule
    from dalle.training.settings import TrainConfig

PresetName = Literal["demo", "tiny", "emoji", "small", "base", "paper"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """What is trained on."""

    data: str | None = None
    """A folder of pictures with captions, a table (.csv .tsv .json .jsonl .parquet), .tar files,
    hub:NAME, mix:2*A+1*B, or `shapes` for the built-in pictures: docs/data.md."""
    quarantine: str | None = None
    """A list written by `dalle data inspect --quarantine`: what is in it is left out."""
    held_out: str | None = None
    """Another data set for numbers during training; without it a part of the data is held out."""
    held_out_share: float = 0.02
    """Share of the data that is held out; 0 for none. The same part for all three models."""
    cache: str | None = None
    """Folder of the token cache (`--views` of the transformer); by default in ~/.cache/dalle."""
    shapes: int = 30_000
    """How many pictures `shapes` has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimSettings:
    """How the weights are changed: AdamW."""

    lr: float
    """Peak step size."""
    schedule: Literal["constant", "cosine", "halvings"] = "cosine"
    """Of the step size, after its warm-up."""
    warmup: int = 0
    """Updates of a linear rise to the peak."""
    decay_share: float = 1.0
    """cosine: share of the run after which `final` is reached and held."""
    final: float = 0.0
    """cosine: the last factor of the peak."""
    halvings: tuple[float, ...] = (0.5, 0.65, 0.78, 0.88, 0.95)
    """halvings: shares of the run at which the step size is halved."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Not applied to gains, biases and embeddings."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    ema_decay: float | None = None
    """Of averaged weights, which generation prefers; None keeps none."""
    ema_every: int = 1
    """Updates between two applications of the average."""

    def config(self) -> "OptimConfig":
        """As the training loop takes it."""
        from dalle.training.optim import OptimConfig

        return OptimConfig(
            lr=self.lr,
            schedule=self._schedule(),
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )

    def _schedule(self) -> "Schedule":
        from dalle.training.schedules import Constant, WarmupCosine, WarmupHalvings

        if self.schedule == "halvings":
            return WarmupHalvings(warmup=self.warmup, halvings=self.halvings)
        if self.schedule == "cosine":
            return WarmupCosine(warmup=self.warmup, fraction=self.decay_share, final=self.final)
        if self.warmup:
            raise ConfigError("a constant step size has no warm-up; take another schedule")
        return Constant()


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """How long, how fast, how often."""

    steps: int
    """Updates in all."""
    batch_size: int
    """Samples in one update, over all processes and micro-batches."""
    micro_batches: int = 1
    """Parts of a process's share that go through the model one after another; more of them need
    less memory."""
    recompute: bool = False
    """Whether a transformer's layers are computed again in the backward pass rather than kept: much
    less memory for about a third more time."""
    compile: bool = False
    """Whether a transformer's layers go through `torch.compile`, once for all of them. Meant for
    GPUs; needs a C++ compiler. See docs/training.md."""
    powersgd_rank: int | None = None
    """Under ddp: send of each gradient a product of two matrices of so many columns, from the end
    of the step size's warm-up on. See docs/distributed.md."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs that have it, float32 elsewhere."""
    log_every: int = 20
    validate_every: int = 500
    """Updates between two looks at held-out data; 0: only at the end."""
    validate_samples: int = 512
    """Held-out samples that are looked at, always the same ones; 0: none at all."""
    stop_after_no_gain: int = 0
    """End the run after so many looks at held-out data without a new lowest loss; the lowest step
    stands for the run. 0: never."""
    preview_every: int = 1000
    """Updates between two previews; 0: none at all."""
    save_every: int = 1000
    keep_last: int = 2
    """How many of the newest checkpoints stay, beside the best one."""
    keep_every: int = 0
    """Checkpoints of steps that are a multiple of it stay for good; 0: none for that reason."""
    num_workers: int | None = None
    """Processes that read data, per process that trains; None: by the cores that may be used."""
    max_bad: float = 0.01
    """Share of the samples read so far that may be damaged before the run stops."""
    tracker: str | None = None
    """One of accelerate's trackers (tensorboard, wandb, ...), besides metrics.jsonl."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSettings:
    """How captions become tokens."""

    text_slots: int
    """The start token, at most text_slots - 1 text tokens, and pads."""
    text_vocab: int = 16384
    """Entries of the tokenizer at most; it is trained on the captions."""
    lowercase: bool = True
    """As published."""
    text_tokenizer: str | None = None
    """Take the tokenizer of this model folder, or this text_tokenizer.json, instead; with
    --start-from, the file that another project's model lacks."""
    bpe_dropout: float = 0.1
    """Share of the merges that are left out in training."""
    long_captions: Literal["cut", "leave_out", "refuse"] = "cut"
    """What is done with captions that have more tokens than slots."""


def train_config(
    loop: LoopSettings, optim: OptimSettings, *, seed: int, device: DeviceName
) -> "TrainConfig":
    """As the training loop takes it."""
    from dalle.training.settings import TrainConfig

    return TrainConfig(
        steps=loop.steps,
        batch_size=loop.batch_size,
        micro_batches=loop.micro_batches,
        recompute=loop.recompute,
        compile=loop.compile,
        powersgd_rank=loop.powersgd_rank,
        seed=seed,
        precision=loop.precision,
        optim=optim.config(),
        ema_decay=optim.ema_decay,
        ema_every=optim.ema_every,
        log_every=loop.log_every,
        validate_every=loop.validate_every,
        validate_samples=loop.validate_samples,
        stop_after_no_gain=loop.stop_after_no_gain,
        preview_every=loop.preview_every,
        save_every=loop.save_every,
        keep_last=loop.keep_last,
        keep_every=loop.keep_every,
        num_workers=loop.num_workers,
        max_bad=loop.max_bad,
        device=device,
        tracker=loop.tracker,
    )


def height_and_width(image_size: tuple[int, ...]) -> tuple[int, int]:
    """In pixels, from one number (a square) or two."""
    if len(image_size) not in (1, 2):
        raise ConfigError(
            f"image_size has {len(image_size)} numbers; give the side of a square, or height and "
            "width"
        )
    return image_size[0], image_size[-1]
