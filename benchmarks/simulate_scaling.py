"""What a step would take on 8, 64 and 1024 GPUs, from a compute rate and published link speeds.

    python benchmarks/simulate_scaling.py [--cluster NAME] [--share S] [--sequences N] [--json FILE]

Arithmetic, not a measurement. Assumed: GPUs reach a share of their published peak whatever their
number (--share; none was measured for this table), links one of theirs (--link-share); every number
that travels has four bytes, as here; collectives are rings over all GPUs, all-reduces trees where
those are faster; the slowest link on the way is every link; a step is over sequences that are there
already. Two bounds are given: nothing of the communication is hidden, and all that runs beside
the arithmetic of its phase is.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from links import CLUSTERS, Cluster, Way, all_reduce, ring_gather

STRATEGIES = ("ddp", "powersgd", "zero2", "fsdp2", "published")
"""`published`: weights divided inside a machine, PowerSGD between machines (arXiv 2102.12092,
appendix E). It is no strategy of ours, and stands for comparison. zero3 costs what fsdp2 does."""
DDP_BUCKET = 25e6
"""Bytes that DDP sends at once, by its default."""
ZERO_BUCKET = 2e8
"""Numbers that DeepSpeed sends at once, as `dalle.training.zero_update` tells it."""
TEXT, IMAGE = 256, 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What of a model counts here."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    layers: int
    flop: float
    """Of one sequence, forward and backward."""
    sequences: int
    """On one GPU in a step."""
    rank: int
    """Of PowerSGD: about a quarter of the width, as published."""
    recompute: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in all."""
        return sum(math.prod(shape) for shape in self.shapes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Seconds of one update on one GPU."""

    forward: float
    backward: float
    with_forward: float = 0.0
    """Communication that may run beside the forward pass."""
    with_backward: float = 0.0
    after: float = 0.0
    """Communication that nothing runs beside."""
    extra: float = 0.0
    """Arithmetic that one GPU alone would not do."""

    def seconds(self, *, hidden: bool) -> float:
        """Of all of it, with what may run beside something else hidden, or one after the other."""
        if not hidden:
            communication = self.with_forward + self.with_backward + self.after
            return self.forward + (self.backward + self.extra) + communication
        backward = max(self.backward + self.extra, self.with_backward)
        return max(self.forward, self.with_forward) + backward + self.after

    def efficiency(self, *, hidden: bool) -> float:
        """Of the time, what one GPU alone would take for its sequences."""
        return (self.forward + self.backward) / self.seconds(hidden=hidden)

    def communication_share(self, *, hidden: bool) -> float:
        """Of the time, what the GPU waits for others."""
        arithmetic = self.forward + (self.backward + self.extra)
        return 1 - arithmetic / self.seconds(hidden=hidden)


def compressed(shapes: Sequence[tuple[int, ...]], rank: int) -> tuple[float, float]:
    """Numbers that PowerSGD sends, and its FLOP.

    As torch's hook: a matrix goes as two thin ones where these are at most half of it; all else
    goes whole.
    """
    sent = flop = 0.0
    for shape in shapes:
        rows, cols = shape[0], math.prod(shape[1:])
        if len(shape) > 1 and 2 * rank * (rows + cols) < rows * cols:
            sent += rank * (rows + cols)
            flop += 6 * rows * cols * rank + 2 * rows * rank**2
        else:
            sent += rows * cols
    return sent, flop


def simulate(model: Model, strategy: str, gpus: int, cluster: Cluster, *, share: float) -> Step:
    """One update.

    Args:
        share: of the cluster's peak that products reach.
    """
    rate = cluster.peak * share
    forward = model.sequences * model.flop / 3 / rate
    step = Step(forward=forward, backward=(3 if model.recompute else 2) * forward)
    if gpus == 1:
        return step
    way, size = cluster.way(gpus), 4.0 * model.parameters
    sent, flop = compressed(model.shapes, model.rank)
    if strategy == "ddp":
        reduced = in_parts(all_reduce, size, math.ceil(size / DDP_BUCKET), gpus, way)
        return replace(step, with_backward=reduced)
    if strategy == "powersgd":
        parts = 2 * math.ceil(size / DDP_BUCKET)
        reduced = in_parts(all_reduce, 4 * sent, parts, gpus, way)
        return replace(step, with_backward=reduced, extra=flop / rate)
    if strategy == "zero2":
        parts = math.ceil(model.parameters / ZERO_BUCKET)
        gathered = in_parts(ring_gather, size, parts, gpus, way)
        return replace(step, with_backward=gathered, after=gathered)
    if strategy == "fsdp2":
        gathered = in_parts(ring_gather, size, model.layers, gpus, way)
        return replace(step, with_forward=gathered, with_backward=2 * gathered)
    inside = min(gpus, cluster.machine)
    gathered = in_parts(ring_gather, size, model.layers, inside, cluster.way(inside))
    machines, slow = math.ceil(gpus / inside), cluster.between_machines()
    reduced = in_parts(all_reduce, 4 * sent / inside, 2 * model.layers, machines, slow)
    both = max(2 * gathered, reduced)  # each has links of its own
    extra = flop / inside / rate if machines > 1 else 0.0
    return replace(step, with_forward=gathered, with_backward=both, extra=extra)


def in_parts(
    collective: Callable[[float, int, Way], float], size: float, parts: int, ranks: int, way: Way
) -> float:
    """Seconds of `parts` collectives, one after the other, that send `size` bytes together."""
    return parts * collective(size / parts, ranks, way)


def state_bytes(model: Model, strategy: str, gpus: int) -> float:
    """Weights, gradients and two moments on one GPU, in float32; activations are not counted."""
    numbers = {
        "ddp": 4.0,
        "powersgd": 5.0,  # and what is left over
        "zero2": 1 + 3 / gpus,
        "fsdp2": 4 / gpus,
        "published": 5 / min(gpus, 8),
    }
    return 4 * model.parameters * numbers[strategy]


def real_models() -> list[Model]:
    """The presets `base` and `paper` with 8,192 codes, and 1.3 billion parameters between them."""
    from dalle.models.dalle import DalleConfig
    from dalle.presets.dalle import DALLE_PRESETS

    base, paper = (
        DALLE_PRESETS[name].model_config(text_vocab=16384, codes=8192, grid=(32, 32))
        for name in ("base", "paper")
    )
    middle = DalleConfig(text_vocab=16384, image_vocab=8192, depth=24, width=2048, heads=16)
    return [
        measure("base", base, sequences=32, rank=256),
        measure("1.3B", middle, sequences=16, rank=512),
        measure("paper", paper, sequences=8, rank=896, recompute=True),
    ]


def measure(
    name: str, config: object, *, sequences: int, rank: int, recompute: bool = False
) -> Model:
    """A model built without memory. Attention counts as causal, its sparsity as no gain."""
    import torch

    from dalle.models.dalle import Dalle, DalleConfig

    assert isinstance(config, DalleConfig)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in Dalle(config).named_parameters()}
    blocks = sum(math.prod(s) for n, s in shapes.items() if ".blocks." in n and len(s) > 1)
    slots = TEXT + IMAGE
    heads = TEXT * math.prod(shapes["text_head.weight"])
    heads += IMAGE * math.prod(shapes["image_head.weight"])
    attention = 12 * config.depth * config.width * slots * (slots + 1) / 2
    return Model(
        name=name,
        shapes=tuple(shapes.values()),
        layers=config.depth,
        flop=6 * (blocks * slots + heads) + attention,
        sequences=sequences,
        rank=rank,
        recompute=recompute,
    )


def rows(
    models: Sequence[Model], cluster: Cluster, *, gpus: Sequence[int], share: float
) -> list[dict[str, object]]:
    """The table: of each pair the first is with communication hidden, the second with none."""
    table: list[dict[str, object]] = []
    for model in models:
        for strategy in STRATEGIES:
            for number in gpus:
                step = simulate(model, strategy, number, cluster, share=share)
                row: dict[str, object] = {"model": model.name, "strategy": strategy, "gpus": number}
                tokens = number * model.sequences * (TEXT + IMAGE)
                for name, hidden in (("hidden", True), ("bare", False)):
                    seconds = step.seconds(hidden=hidden)
                    row[f"steps_s_{name}"] = 1 / seconds
                    row[f"tokens_s_{name}"] = tokens / seconds
                    row[f"efficiency_{name}"] = step.efficiency(hidden=hidden)
                    row[f"comm_share_{name}"] = step.communication_share(hidden=hidden)
                row["state_gb"] = state_bytes(model, strategy, number) / 1e9
                table.append(row)
    return table


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    from interleaved import report

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cluster", choices=CLUSTERS, default="h100-infiniband")
    parser.add_argument("--share", type=float, default=0.4, help="of the peak, in products")
    parser.add_argument("--link-share", type=float, default=0.8, help="of a link's published speed")
    parser.add_argument("--sequences", type=int, help="on one GPU in a step, for all models")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    named = CLUSTERS[flags.cluster]
    cluster = replace(
        named, inside=named.inside * flags.link_share, between=named.between * flags.link_share
    )
    models = real_models()
    if flags.sequences:
        models = [replace(model, sequences=flags.sequences) for model in models]
    assumed = {"cluster": str(cluster), "share": flags.share, "link_share": flags.link_share}
    report(rows(models, cluster, gpus=flags.gpus, share=flags.share), flags.json, **assumed)


if __name__ == "__main__":
    main()
