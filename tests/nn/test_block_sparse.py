"""Attention by blocks: which are computed, and that it is attention under the dense mask."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dalle.layout import StreamLayout
from dalle.nn.block_sparse import block_sparse_attention, cut_into_blocks
from dalle.nn.masks import Pattern, dense_mask

PUBLISHED = StreamLayout(text=256, rows=32, cols=32)
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
PATTERNS = {
    "row": Pattern(name="row"),
    "column": Pattern(name="column"),
    "conv": Pattern(name="conv", kernel=11),
    "grid_row": Pattern(name="grid_row"),
    "square": Pattern(name="square", kernel=3),
    "full": Pattern(name="full"),
}


@pytest.mark.parametrize(
    ("name", "computed", "transposed"),
    [
        ("row", 34, False),
        ("grid_row", 27, False),
        ("column", 27, True),
        ("conv", 40, False),
        ("full", 55, False),
    ],
)
def test_no_more_blocks_are_computed_than_must_be(
    name: str, computed: int, transposed: bool
) -> None:
    blocks = cut_into_blocks(PATTERNS[name], PUBLISHED, CPU)
    assert (blocks.computed, blocks.order is not None) == (computed, transposed)


def largest_difference(name: str, layout: StreamLayout) -> float:
    """Between blocks and the dense mask, forward, on the CPU."""
    torch.manual_seed(0)
    pattern = PATTERNS[name]
    qkv = torch.randn(3, 2, 2, layout.length, 16)
    with torch.no_grad():
        ours = block_sparse_attention(*qkv, cut_into_blocks(pattern, layout, CPU))
        dense = F.scaled_dot_product_attention(*qkv, attn_mask=dense_mask(pattern, layout))
    return (ours - dense).abs().max().item()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_blocks_equal_the_dense_mask() -> None:
    """In a process of its own: the hooks that check annotations keep torch from compiling."""
    program = (
        "import tests.nn.test_block_sparse as t\n"
        "odd = t.StreamLayout(text=20, rows=11, cols=13)\n"
        "print(t.largest_difference('column', t.PUBLISHED))\n"
        "for name in ('row', 'column', 'conv'):\n"
        "    print(t.largest_difference(name, odd))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 4 and max(differences) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("name", PATTERNS)
def test_blocks_on_a_gpu_equal_the_dense_mask_with_their_gradients(name: str) -> None:
    device, pattern = torch.device("cuda"), PATTERNS[name]
    forms = (
        partial(block_sparse_attention, blocks=cut_into_blocks(pattern, PUBLISHED, device)),
        partial(F.scaled_dot_product_attention, attn_mask=dense_mask(pattern, PUBLISHED, device)),
    )
    torch.manual_seed(0)
    weights = torch.randn(1, 4, PUBLISHED.length, 64, device=device, dtype=torch.bfloat16)
    found = []
    for form in forms:
        torch.manual_seed(1)
        qkv = torch.randn(3, *weights.shape, device=device, dtype=torch.bfloat16)
        qkv.requires_grad_()
        mixed = form(*qkv)
        (mixed * weights).sum().backward()
        found.append((mixed, qkv.grad))
    for ours, dense in zip(*found, strict=True):
        assert (ours - dense).float().norm() < 0.02 * dense.float().norm()
