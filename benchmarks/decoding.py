"""One decoding step beside written-out baselines and other projects, in one run.

    python benchmarks/decoding.py [--samples N ...] [--precisions P ...] [--rounds R]
        [--threads T] [--only-ours] [--peers FOLDER] [--json FILE]

One prompt, the toy of 6 layers of width 384 over 256 + 1024 slots, at slot 512, where as much is
read as on the average. All take their turn in every round; a row has medians, and the median over
rounds of the ratio to ours. The share of the ceiling counts the arithmetic of exact sparse
attention and the image head; the floor is what that arithmetic takes at the ceiling, or what the
weights and the keys and values that are read take from memory, whichever is longer. Several runs
with a few samples each give what decoding_figure.py draws. FOLDER holds checkouts of other projects
(see peer.py); where they import more than is installed, the environment's PEERS_PATH says where
that is.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from decoding_baselines import GrowingCache, Record, StaticCache
from interleaved import ceilings, conditions, in_turns, median_ratio, report
from peers import peers
from torch import Tensor

from dalle.models.dalle import Dalle, DalleConfig
from dalle.nn.linear import linear32, weights_kept

SLOT, TEXT, IMAGE = 512, 16384, 8192
LAYERS, WIDTH = 6, 384
WEIGHTS = 12 * LAYERS * WIDTH**2 + WIDTH * IMAGE
IMAGE_KEYS = 4 * 33 + 17 + 66
"""That the six layers read of the image, on the average."""
MOST_UNCACHED = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[2, 16, 64])
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-ours", action="store_true", help="no baselines beside it")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    os.environ["OMP_NUM_THREADS"] = str(flags.threads)  # for the processes of others
    first = ceilings()
    rows: list[dict[str, object]] = []
    for precision in flags.precisions:
        for samples in flags.samples:
            rows += compare(samples, precision, flags, first)
    report(rows, flags.json, first=first, last=ceilings(), **conditions())


def compare(
    samples: int, precision: str, flags: argparse.Namespace, first: dict[str, float]
) -> list[dict[str, object]]:
    """The rows of one number of samples."""
    names = ["dalle-pytorch:full", "llamagen", "mindalle"]
    # The others take seconds a step.
    names += ["dalle-pytorch:sparse"] if samples <= MOST_UNCACHED else []
    names += ["rudalle"] if samples <= 16 and precision == "float32" else []
    with (
        torch.inference_mode(),
        weights_kept(),
        peers(names, "decode", batch=samples, precision=precision, folder=flags.peers) as theirs,
    ):
        calls = steps(samples, DTYPES[precision])
        errors = {} if flags.only_ours else differences(calls)
        if samples > MOST_UNCACHED or flags.only_ours:
            del calls["whole stream again"]
        if flags.only_ours:
            calls = {"ours": calls["ours"]}
        taken = in_turns({**calls, **theirs}, flags.rounds)
    ceiling = first[f"{precision}_gflops"]
    return [
        {
            "step": name,
            "samples": samples,
            "precision": precision,
            "ms": 1000 * statistics.median(several),
            "tokens_a_second": samples / statistics.median(several),
            "by_ours": median_ratio(several, taken["ours"]),
            "floor_ms": 1000 * floor(samples, precision, first),
            "of_ceiling": samples * gigaflop() / statistics.median(several) / ceiling,
            "difference": errors.get(name, float("nan")),
        }
        for name, several in taken.items()
    ]


def differences(calls: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """The largest difference of each step from the whole stream, on logits of unit scale."""
    expected = calls["whole stream again"]()
    scale = expected.std()
    return {name: ((c() - expected) / scale).abs().max().item() for name, c in calls.items()}


def gigaflop() -> float:
    """Of one sample's step: six layers, the image head, and the keys that are read."""
    return (2 * WEIGHTS + 4 * WIDTH * (256 * LAYERS + IMAGE_KEYS)) / 1e9


def floor(samples: int, precision: str, first: dict[str, float]) -> float:
    """Seconds below which no step can be on this machine, by what was measured of it."""
    bytes_read = WEIGHTS + 2 * WIDTH * (256 * LAYERS + samples * IMAGE_KEYS)
    bytes_read *= DTYPES[precision].itemsize
    best = max(value for name, value in first.items() if name.startswith(precision))
    return max(samples * gigaflop() / best, bytes_read / 1e9 / first["read_gb"])


def steps(samples: int, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """What gives the logits of the same token, ours first; logits are of unit scale."""
    torch.manual_seed(0)
    config = DalleConfig(text_vocab=TEXT, image_vocab=IMAGE, depth=6, width=384, heads=6)
    model = Dalle(config).eval()
    # Heads start at zero as published, and equality of zeros would prove nothing.
    torch.nn.init.normal_(model.image_head.weight, std=config.width**-0.5)
    model.to(dtype)
    text = model.no_caption(torch.zeros(1, 256, dtype=torch.long))
    texts = text.expand(samples, -1)
    codes = torch.randint(0, IMAGE, (samples, 1024))
    codes[:, :SLOT] = codes[0, :SLOT].clone()
    cache = model.new_cache(prompts=1, samples=samples)
    model.prefill(text, codes[:1, :SLOT], cache)
    record = Record(model, 256 + SLOT)
    inputs = torch.cat([codes.new_full((samples, 1), IMAGE), codes[:, : SLOT - 1]], dim=1)
    model.run(torch.cat([model.embed_condition(texts), model.embed_image(inputs)], dim=1), record)
    growing = GrowingCache(model, record.keys, record.values)
    static = StaticCache(model, record.keys, record.values)
    both = torch.cat([model.text_head.weight, model.image_head.weight])
    bias = torch.cat([model.text_head.bias, model.image_head.bias])
    row, col = model.row_embedding.weight[SLOT // 32], model.col_embedding.weight[SLOT % 32]
    last = codes[:, SLOT - 1]

    def hidden(attend: GrowingCache | StaticCache) -> Tensor:
        embedded = model.image_embedding(last) + (row + col)
        return model.run(embedded.unsqueeze(1), attend)[:, 0]

    def image_head(attend: GrowingCache | StaticCache) -> Tensor:
        return linear32(hidden(attend), model.image_head.weight, model.image_head.bias)

    def joint_head(attend: GrowingCache | StaticCache) -> Tensor:
        return linear32(hidden(attend), both, bias)[:, TEXT + 1 :]

    return {
        "ours": lambda: model.step(last, torch.tensor(SLOT), cache),
        "static cache": lambda: image_head(static),
        "growing cache": lambda: image_head(growing),
        "and joint head": lambda: joint_head(growing),
        "whole stream again": lambda: model(texts, codes).image[:, SLOT],
    }


if __name__ == "__main__":
    main()
