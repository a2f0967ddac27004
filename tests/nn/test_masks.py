"""The patterns against the published figure, the published counts and one another."""

from pathlib import Path

import pytest
import torch

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.nn.masks import (
    Pattern,
    dense_mask,
    draw_mask,
    may_attend,
    published_patterns,
    transpose_order,
)

GOLDEN = Path(__file__).parents[1] / "golden"
FIGURE = GOLDEN / "masks_figure_11.txt"
DRAWN = GOLDEN / "masks_dalle_pytorch.txt"
TOY = StreamLayout(text=4, rows=4, cols=4)
LAYOUTS = [
    StreamLayout(text=4, rows=4, cols=4),
    StreamLayout(text=3, rows=5, cols=7),
    StreamLayout(text=2, rows=6, cols=3, prefix=1),
    StreamLayout(text=1, rows=1, cols=5),
]
PATTERNS = [
    Pattern(name="row"),
    Pattern(name="column"),
    Pattern(name="conv", kernel=3),
    Pattern(name="full"),
    Pattern(name="grid_row"),
    Pattern(name="square", kernel=3),
    Pattern(name="box", kernel=3),
]


def figure(panel: str, file: Path = FIGURE) -> str:
    text = file.read_text()
    return text.split(f"[{panel}]\n")[1].split("\n\n")[0].rstrip()


@pytest.mark.parametrize("pattern", PATTERNS[:3], ids=lambda p: p.name)
def test_mask_equals_figure_11_cell_by_cell(pattern):
    assert draw_mask(dense_mask(pattern, TOY), TOY) == figure(pattern.name)


@pytest.mark.parametrize(
    ("pattern", "panel", "ones"),
    [
        (Pattern(name="grid_row"), "grid_row", 126),
        (Pattern(name="column"), "column", 126),
        (Pattern(name="box", kernel=3), "box 3", 162),
        (Pattern(name="box", kernel=5), "box 5", 174),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_mask_equals_what_dalle_pytorch_attends_to(pattern, panel, ones):
    layout = StreamLayout(text=5, rows=4, cols=4)
    mask = dense_mask(pattern, layout)
    drawn = [line[:-1] for line in draw_mask(mask, layout).splitlines()[:-1]]
    assert drawn == figure(panel, DRAWN).splitlines()
    assert int(mask[:-1, :-1].sum()) == ones


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_square_is_the_centred_square_within_the_grid_and_the_past(layout):
    image = dense_mask(Pattern(name="square", kernel=3), layout)[layout.image_start :]
    cols = layout.cols
    for query in range(layout.image):
        for key in range(layout.image):
            near = abs(query // cols - key // cols) <= 1 and abs(query % cols - key % cols) <= 1
            assert image[query, layout.image_start + key] == (near and key <= query)


def test_blocks_read_what_their_table_says_and_nothing_later():
    layout = StreamLayout(text=3, rows=2, cols=3)
    pattern = Pattern(name="blocks", kernel=2, blocks=("####", ".###", "#.##", ".#.#"))
    expected = (
        torch.tensor([[cell == "#" for cell in line] for line in pattern.blocks])
        .repeat_interleave(2, 0)
        .repeat_interleave(2, 1)
    )
    mask = dense_mask(pattern, layout)
    assert torch.equal(mask[:8, :8], expected & torch.ones(8, 8).tril().bool())
    # The slot after the table's end counts to its last block.
    assert mask[8].tolist() == [False, False, True, True, False, False, True, True, True]


def test_column_mask_in_transposed_order_equals_figure_11c():
    order = transpose_order(TOY)
    mask = dense_mask(Pattern(name="column"), TOY)[order][:, order]
    assert draw_mask(mask, TOY) == figure("column transposed")


@pytest.mark.parametrize(
    ("pattern", "ones", "among_images"),
    [
        (Pattern(name="row"), 328_304, 33_264),
        (Pattern(name="column"), 311_936, 16_896),
        (Pattern(name="conv", kernel=11), 356_384, 61_344),
        (Pattern(name="full"), 819_840, 524_800),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_full_size_counts(pattern, ones, among_images):
    layout = StreamLayout(text=256, rows=32, cols=32)
    mask = dense_mask(pattern, layout)
    assert int(mask.sum()) == ones
    assert int(mask[256:, 256:].sum()) == among_images


def test_conv_11_reads_the_66_published_offsets():
    layout = StreamLayout(text=1, rows=32, cols=32)
    last = dense_mask(Pattern(name="conv", kernel=11), layout)[-1, 1:]
    offsets = (1023 - torch.nonzero(last)[:, 0]).flip(0).tolist()
    runs = [(0, 5), (27, 37), (59, 69), (91, 101), (123, 133), (155, 165), (187, 191)]
    assert offsets == [d for first, final in runs for d in range(first, final + 1)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_text_is_causal_and_seen_by_every_image_slot_and_sees_no_image(pattern, layout):
    mask = dense_mask(pattern, layout)
    start = layout.image_start
    assert torch.equal(mask[:start, :start], torch.ones(start, start).tril().bool())
    assert mask[start:, :start].all()
    assert not mask.triu(1).any()
    assert mask.diagonal().all()


def test_published_order_is_47_row_16_column_1_conv():
    names = published_patterns(64)
    assert [names.count(n) for n in ("row", "column", "conv")] == [47, 16, 1]
    assert names[:4] == ("row", "column", "row", "row")
    assert names[-1] == "conv"


def test_predicate_broadcasts_without_building_the_mask():
    query, key = torch.tensor([[7], [9]]), torch.tensor([0, 5, 9])
    part = may_attend(Pattern(name="row"), TOY, query, key)
    assert torch.equal(part, dense_mask(Pattern(name="row"), TOY)[[7, 9]][:, [0, 5, 9]])


@pytest.mark.parametrize(
    ("name", "kernel"), [("axial", 0), ("conv", 4), ("conv", 0), ("square", 2), ("box", 0)]
)
def test_unknown_patterns_are_refused(name, kernel):
    with pytest.raises(ConfigError, match=r"expected (one of row|an odd number|1 or more)"):
        Pattern(name=name, kernel=kernel)


def test_tables_of_blocks_are_square_and_for_blocks_only():
    for wrong in (("##", "#"), ()):
        with pytest.raises(ConfigError, match="lines of blocks"):
            Pattern(name="blocks", kernel=2, blocks=wrong)
    with pytest.raises(ConfigError, match="lines of blocks"):
        Pattern(name="full", blocks=("#",))
