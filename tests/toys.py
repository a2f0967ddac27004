"""A tiny task that trains in milliseconds, for tests of the loop and of checkpoints."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.protocols import Batch, EncodedSample, Loss, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig:
    """A small network from `inputs` numbers to one."""

    inputs: int = 3
    width: int = 8
    depth: int = 0
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class ToyOutput:
    """As the models return theirs: in a dataclass without a `__dict__`."""

    value: Tensor


class Toy(nn.Module):
    """Embedding, matrix, gain: one parameter of each sort, and a buffer that is not saved."""

    ramp: Tensor

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Linear(config.inputs, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.kind = nn.Embedding(2, config.width)
        self.deep = nn.ModuleList(
            nn.Linear(config.width, config.width) for _ in range(config.depth)
        )
        self.drop = nn.Dropout(config.dropout)
        self.last = nn.Linear(config.width, 1)
        self.register_buffer("ramp", torch.arange(float(config.width)), persistent=False)

    def forward(self, x: Tensor, kind: Tensor) -> ToyOutput:
        """Predict one number per row of `x`."""
        hidden = self.norm(self.first(x) + self.kind(kind)) + 0.01 * self.ramp
        for layer in self.deep:
            hidden = hidden + layer(hidden)
        # As a head does that computes in float32: not through its layer.
        return ToyOutput(
            F.linear(self.drop(hidden.tanh()), self.last.weight, self.last.bias).sum(-1)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ToySource:
    """Numbered samples whose key is their number; those in `bad_from` on are not finite."""

    size: int = 37

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Sample:
        return Sample(key=str(index), image=Image.new("RGB", (2, 1)), captions=(f"number {index}",))


@dataclass(kw_only=True, slots=True)
class ToyTask:
    """Fits a noisy sine; every third sample has no target, so that counts differ by micro-batch."""

    config: ToyConfig = field(default_factory=ToyConfig)
    poison_at: tuple[int, ...] = ()
    """Steps whose loss is made infinite, and its gradient not a number."""
    poison_rank: int | None = None
    """The only process where it is."""
    slow_at: int | None = None
    """The step that takes a minute."""
    pause: float = 0.0
    """Seconds that a step takes besides, in which a save gets on."""
    on_step: Callable[[int], None] | None = None
    """Called at each step."""
    on_look: Callable[[str], None] | None = None
    """Called when held-out data is looked at, with "validate" or "preview"."""
    kind: str = "dvae"
    seen: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    """Which samples each step read."""

    def build(self) -> nn.Module:
        """A fresh network."""
        return Toy(self.config)

    def read(
        self, sample: Sample | EncodedSample, random: Random, *, train: bool
    ) -> dict[str, np.ndarray] | None:
        """Numbers that depend on the sample and, in training, on its generator."""
        index = int(sample.key)
        jitter = random.gauss(0, 0.1) if train else 0.0
        x = np.sin(np.arange(self.config.inputs) * (index + 1)) + jitter
        return {
            "x": x.astype(np.float32),
            "index": np.array(index),
            "target": np.array(np.sin(index), dtype=np.float32),
            "has_target": np.array(index % 3 != 0),
        }

    def prepare(self, arrays: dict[str, Tensor]) -> Batch:
        """Count the targets."""
        return Batch(tensors=arrays, counts={"targets": float(arrays["has_target"].sum())})

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        """Mean squared error over the targets of the whole batch."""
        t = batch.tensors
        self.seen.append((step, tuple(t["index"].tolist())))
        error = (model(t["x"], t["index"] % 2).value - t["target"]).square() * t["has_target"]
        total = error.sum() / max(counts["targets"], 1.0)
        if step == self.slow_at:
            time.sleep(60)
        time.sleep(self.pause)
        if self.on_step is not None:
            self.on_step(step)
        if step in self.poison_at and self.poison_rank in (None, int(os.environ.get("RANK", 0))):
            total = total / 0.0
        return Loss(total=total, metrics={"loss": total.detach(), "double": 2 * total.detach()})

    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        """The same error on held-out samples."""
        if self.on_look is not None:
            self.on_look("validate")
        total, targets = 0.0, 0.0
        for batch in batches:
            total += self.loss(model, batch, step=-1, counts={"targets": 1.0}).total.item()
            targets += batch.counts["targets"]
        self.seen = [item for item in self.seen if item[0] >= 0]
        return {"loss": total / targets}

    def preview(self, model: nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """One grey picture."""
        if self.on_look is not None:
            self.on_look("preview")
        path = folder / "toy.png"
        Image.new("RGB", (3, 2), (128, 128, 128)).save(path)
        return [path]

    def export(self, folder: Path) -> dict[str, Any]:
        """A neighbour file and a neighbour folder."""
        (folder / "text_tokenizer.json").write_text('{"toy": true}', encoding="utf-8")
        (folder / "image_tokenizer").mkdir()
        (folder / "image_tokenizer" / "config.json").write_text("{}", encoding="utf-8")
        return {"note": "toy"}
