"""Memory by preset, precision and number of samples: of training on one GPU, and of sampling.

    python benchmarks/memory.py [--presets NAME ...] [--json FILE]

Counted, not measured. Training: what `dalle plan` counts on one GPU for a micro-batch of one sample
and for each further one. Sampling: weights, keys and values of one prompt and its samples, and what
drawing a code takes. "1.3B" has 24 layers of width 2048.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from dalle.cli.plan import DALLE_PLANS, PlanDalle
from dalle.cli.plan_task import planned
from dalle.models.dalle import Dalle, DalleConfig
from dalle.nn.cache import Cache
from dalle.sampling.launch_memory import LOGITS_AT_ONCE
from dalle.training.memory import measure_step, size_of
from dalle.training.plan import Setting, held

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAMPLES = (1, 32, 128, 512)
GB = 1e9


def main() -> None:
    """Print both tables, and write them as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presets", nargs="+", default=["emoji", "small", "base", "1.3B", "paper"])
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    training, sampling = [], []
    for preset in flags.presets:
        plan = plan_of(preset)
        for precision in TYPES:
            training.append(of_training(preset, plan, precision))
            sampling.append(of_sampling(preset, config_of(plan), precision))
    for rows in (training, sampling):
        print("| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(_cell(value) for value in row.values()) + " |")
        print()
    if flags.json:
        found = {"training": training, "sampling": sampling}
        flags.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def plan_of(preset: str) -> PlanDalle:
    """The run of a preset; codes are tokenized once, so that no discrete VAE is beside it."""
    plan = DALLE_PLANS["base" if preset == "1.3B" else preset]  # type: ignore[index]
    run = plan.run
    if preset == "1.3B":
        run = dataclasses.replace(run, model=dataclasses.replace(run.model, width=2048))
    objective = dataclasses.replace(run.objective, views=1)
    return dataclasses.replace(plan, run=dataclasses.replace(run, objective=objective))


def config_of(plan: PlanDalle) -> DalleConfig:
    """Sizes of its model."""
    config = planned(plan).task.config  # type: ignore[attr-defined]
    assert isinstance(config, DalleConfig)
    return config


def of_training(preset: str, plan: PlanDalle, precision: str) -> dict[str, Any]:
    """GB on one GPU without averages, and of each further sample in a micro-batch."""
    what = planned(plan)
    setting = Setting(strategy="single", gpus=1, micro_batches=2, averages=False)
    row: dict[str, Any] = {"preset": preset, "precision": precision}
    for recompute in (False, True):
        one, two = (
            held(
                size_of(what.task),
                measure_step(
                    what.task,
                    what.sample,
                    samples=samples,
                    on="gpu",
                    precision=precision,
                    recompute=recompute,
                ),
                setting,
            )
            for samples in (1, 2)
        )
        name = ", recomputing" if recompute else ""
        if not recompute:
            row["weights, gradients, moments"] = (one.weights + one.gradients + one.moments) / GB
        row[f"peak{name}"] = one.peak / GB
        row[f"a further sample{name}"] = (two.peak - one.peak) / GB
    return row


def of_sampling(preset: str, config: DalleConfig, precision: str) -> dict[str, Any]:
    """GB of launches of one prompt, and MB of its text and of each sample."""
    dtype = TYPES[precision]
    cache = cache_of(config, dtype)
    text = sum(x.nbytes for one in cache.layers for x in (one.text_keys, one.text_values))
    logits = LOGITS_AT_ONCE * 4 * config.image_vocab
    size = dtype.itemsize
    with torch.device("meta"):
        weights = size * sum(p.numel() for p in Dalle(config).parameters())
    row: dict[str, Any] = {
        "preset": preset,
        "precision": precision,
        "weights": weights / GB,
        "text, MB": text / 1e6,
        "a sample, MB": cache.bytes_per_sample / 1e6,
    }
    for samples in SAMPLES:
        total = weights + text + samples * (cache.bytes_per_sample + logits)
        row[f"N = {samples}"] = total / GB
    return row


def cache_of(config: DalleConfig, dtype: torch.dtype) -> Cache:
    """The cache of one sample, as decoding makes it."""
    return Cache(
        layout=config.layout,
        patterns=config.layer_patterns,
        prompts=1,
        samples=1,
        nulls=0,
        heads=config.heads,
        head_width=config.width // config.heads,
        dtype=dtype,
        device=torch.device("cpu"),
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
