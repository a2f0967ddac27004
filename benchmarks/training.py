"""A training step as a share of what matrix products reach, beside written-out baselines.

    python benchmarks/training.py [--batch B] [--rounds R] [--peers FOLDER] [--cpu-seconds]
        [--json FILE]

The toy of 6 layers of width 384 over 256 + 1024 slots, forward, backward and AdamW, counted as
0.120 TFLOP a sequence (exact sparse attention, split head). Baselines in the same run: fused
attention under boolean masks, and one head over both vocabularies beside it; and the same model
with `--compile`. FOLDER holds checkouts
of other projects (peer.py), whose forward and backward pass takes its turn too, without an
optimizer's step; DALLE-pytorch's feed-forward has 1.5 times our parameters, LlamaGen learns no
text.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from interleaved import ceilings, conditions, in_turns, median_ratio, report
from peers import peers
from torch import Tensor, nn
from torch.nn import functional as F

from dalle.device_memory import keep_freed_memory
from dalle.models.dalle import Dalle, DalleConfig
from dalle.nn.masks import dense_mask
from dalle.training.compiled import compile_layers
from dalle.training.optim import OptimConfig, build_optimizer

PEERS = ["dalle-pytorch:full", "dalle-pytorch:sparse", "llamagen", "mindalle", "rudalle"]
TERAFLOP = 0.120
TEXT, IMAGE = 16384, 8192


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--cpu-seconds", action="store_true", help="of this process, not wall time")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    if flags.peers and flags.cpu_seconds:
        parser.error("--peers run in other processes, whose CPU seconds are not seen here")
    clock = time.process_time if flags.cpu_seconds else time.perf_counter
    keep_freed_memory()  # as `dalle train` does
    first = ceilings(clock)
    rows: list[dict[str, object]] = []
    for precision in ("float32", "bfloat16"):
        calls = steps(flags.batch, mixed=precision == "bfloat16")
        with peers(
            PEERS, "train", batch=flags.batch, precision=precision, folder=flags.peers
        ) as theirs:
            times = in_turns({**calls, **theirs}, flags.rounds, clock)
        for name, taken in times.items():
            rate = 1000 * TERAFLOP * flags.batch / statistics.median(taken)
            rows.append(
                {
                    "step": name,
                    "precision": precision,
                    "seconds": statistics.median(taken),
                    "tokens_a_second": 1280 * flags.batch / statistics.median(taken),
                    "of_ceiling": rate / first[f"{precision}_gflops"],
                    "by_ours": median_ratio(taken, times["ours"]),
                }
            )
    report(rows, flags.json, first=first, last=ceilings(clock), **conditions())


def steps(batch: int, *, mixed: bool) -> dict[str, Callable[[], object]]:
    """A step of the model as it is, and with what others do in place of a part of it."""
    torch.manual_seed(0)
    model = Dalle(DalleConfig(text_vocab=TEXT, image_vocab=IMAGE, depth=6, width=384, heads=6))
    joint = nn.Linear(384, TEXT + 1 + IMAGE)
    text = torch.randint(0, TEXT, (batch, 256))
    text[:, 0] = TEXT
    codes = torch.randint(0, IMAGE, (batch, 1024))
    masks = {p: dense_mask(p, model.layout) for p in set(model.patterns)}

    def masked(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mask = masks[model.patterns[layer]]
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)

    def split_loss(model: Dalle) -> Tensor:
        output = model(text, codes)
        of_text = F.cross_entropy(output.text.flatten(0, 1), text[:, 1:].flatten())
        return of_text / 8 + F.cross_entropy(output.image.flatten(0, 1), codes.flatten()) * 7 / 8

    def joint_loss(model: Dalle) -> Tensor:
        start = codes.new_full((batch, 1), model.start_of_image)
        image = model.embed_image(torch.cat([start, codes[:, :-1]], dim=1))
        embedded = torch.cat([model.embed_condition(text), image], dim=1)
        logits = joint(model.run(embedded, masked)).float()
        targets = torch.cat([text[:, 1:], codes.new_full((batch, 1), -1), codes + TEXT + 1], dim=1)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    whole_stream = model._over_everything(text.device)
    compiled = copy.deepcopy(model)
    compile_layers(compiled, device=text.device, strategy="single")

    def step(
        model: Dalle,
        loss: Callable[[Dalle], Tensor],
        attend: object,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        model._whole_stream = attend  # type: ignore[assignment]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            total = loss(model)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    masked.device = text.device  # type: ignore[attr-defined]
    ours = build_optimizer(model, OptimConfig())
    both = build_optimizer(nn.ModuleList([model, joint]), OptimConfig())
    of_compiled = build_optimizer(compiled, OptimConfig())
    return {
        "ours": partial(step, model, split_loss, whole_stream, ours),
        "ours, compiled": partial(step, compiled, split_loss, whole_stream, of_compiled),
        "boolean mask": partial(step, model, split_loss, masked, ours),
        "and joint head": partial(step, model, joint_loss, masked, both),
    }


if __name__ == "__main__":
    main()
