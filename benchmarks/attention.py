"""Every pattern's form beside fused attention under its boolean mask, with their equality.

    python benchmarks/attention.py [--rounds R] [--json FILE]

256 + 32 x 32 slots, one sequence, 6 heads of 64, forward and backward, float32 and bfloat16.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from interleaved import ceilings, conditions, in_turns, median_ratio, report
from torch import Tensor
from torch.nn import functional as F

from dalle.device_memory import keep_freed_memory
from dalle.layout import StreamLayout
from dalle.nn.attention import choose_form
from dalle.nn.masks import Pattern, dense_mask

LAYOUT = StreamLayout(text=256, rows=32, cols=32)
HEADS, WIDTH = 6, 64
PATTERNS = (
    Pattern(name="row"),
    Pattern(name="column"),
    Pattern(name="conv", kernel=11),
    Pattern(name="full"),
)


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    keep_freed_memory()  # as `dalle train` does
    torch.manual_seed(0)
    first = ceilings()
    rows = [
        compare(pattern, dtype, flags.rounds)
        for dtype in (torch.float32, torch.bfloat16)
        for pattern in PATTERNS
    ]
    report(rows, flags.json, first=first, last=ceilings(), **conditions())


def compare(pattern: Pattern, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    """One line of the table: medians in milliseconds, the ratio, the largest differences."""
    qkv = torch.randn(1, LAYOUT.length, 3, HEADS, WIDTH).to(dtype).requires_grad_()
    weights = torch.randn(1, LAYOUT.length, HEADS, WIDTH).transpose(1, 2).to(dtype)
    forms: dict[str, Callable[..., Tensor]] = {
        "ours": choose_form(pattern, LAYOUT, torch.device("cpu")),
        "mask": partial(F.scaled_dot_product_attention, attn_mask=dense_mask(pattern, LAYOUT)),
        "causal": partial(F.scaled_dot_product_attention, is_causal=True),
    }

    def run(form: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        mixed = form(*qkv.permute(2, 0, 3, 1, 4))
        (gradient,) = torch.autograd.grad(mixed, qkv, weights)
        return mixed.detach(), gradient

    ours, mask = run(forms["ours"]), run(forms["mask"])
    times = in_turns({name: partial(run, form) for name, form in forms.items()}, rounds)
    milliseconds = {f"{name}_ms": 1000 * statistics.median(t) for name, t in times.items()}
    return {
        "pattern": pattern.name,
        "dtype": str(dtype).removeprefix("torch."),
        **milliseconds,
        "mask_by_ours": median_ratio(times["mask"], times["ours"]),
        "difference": (ours[0] - mask[0]).abs().max().item(),
        "of_gradients": (ours[1] - mask[1]).abs().max().item(),
    }


if __name__ == "__main__":
    main()
