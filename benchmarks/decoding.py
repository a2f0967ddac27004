"""Cached decoding beside the whole stream again for every token, in one run, with their equality.

    python benchmarks/decoding.py [--samples N] [--rounds R] [--json FILE]

One prompt, float32, the toy of 6 layers of width 384 over 256 + 1024 slots. A round times both in
turn at the same slot in the middle of the picture; the table shows medians and their ratio.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dalle.models.dalle import Dalle, DalleConfig

SLOT = 512


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    torch.manual_seed(0)
    config = DalleConfig(text_vocab=16384, image_vocab=8192, depth=6, width=384, heads=6)
    model = Dalle(config).eval()
    # Heads start at zero as published, and equality of zeros would prove nothing.
    torch.nn.init.normal_(model.image_head.weight, std=config.width**-0.5)
    text = model.no_caption(torch.zeros(1, 256, dtype=torch.long))
    codes = torch.randint(0, 8192, (flags.samples, 1024))
    codes[:, :SLOT] = codes[0, :SLOT]
    texts = text.expand(flags.samples, -1)
    with torch.inference_mode():
        cache = model.new_cache(prompts=1, samples=flags.samples)
        model.prefill(text, codes[:1, :SLOT], cache)

        def cached() -> torch.Tensor:
            return model.step(codes[:, SLOT - 1], torch.tensor(SLOT), cache)

        def whole() -> torch.Tensor:
            return model(texts, codes).image[:, SLOT]

        error = (cached() - whole()).abs().max().item()
        rounds = [(_seconds(cached), _seconds(whole)) for _ in range(flags.rounds)]
    step, again = (statistics.median(times) for times in zip(*rounds, strict=True))
    result = {
        "samples": flags.samples,
        "cached_ms": 1000 * step,
        "uncached_ms": 1000 * again,
        "ratio": statistics.median(b / a for a, b in rounds),
        "largest_difference": error,
        "cache_bytes_per_sample": cache.bytes_per_sample,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    for name, value in result.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    if flags.json:
        flags.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _seconds(call: Callable[[], torch.Tensor]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
