"""What a decoding step reads is what the mask says, wherever it is kept."""

import pytest
import torch

from dalle.layout import StreamLayout
from dalle.nn.kept import kept_slots
from dalle.nn.masks import Pattern, dense_mask
from tests.nn.test_masks import LAYOUTS, PATTERNS

OTHERS = [
    Pattern(name="square", kernel=3),
    Pattern(name="torus", kernel=3),
    Pattern(name="grid_row"),
    Pattern(name="box", kernel=2),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("pattern", [*PATTERNS, *OTHERS], ids=lambda p: p.name)
def test_a_step_reads_the_row_of_the_dense_mask(pattern: Pattern, layout: StreamLayout) -> None:
    table = kept_slots(pattern, layout)
    start = layout.image_start
    image = dense_mask(pattern, layout)[start:, start:]
    held = torch.full((table.kept,), -1)
    for slot in range(layout.image):
        held[table.place[slot]] = slot
        if table.listed is None:
            stretch = held.unflatten(0, (-1, table.stretch))[table.stretch_of[slot]]
        else:
            stretch = held[table.listed[slot]]
        read = stretch[table.reads[slot]]
        assert read.sort().values.tolist() == torch.nonzero(image[slot])[:, 0].tolist()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_nothing_is_kept_that_is_never_read(pattern: Pattern, layout: StreamLayout) -> None:
    table = kept_slots(pattern, layout)
    read = torch.zeros(table.kept, dtype=torch.bool).unflatten(0, (-1, table.stretch))
    for slot in range(layout.image):
        read[table.stretch_of[slot]] |= table.reads[slot]
    assert read.all()


def test_published_patterns_read_few_places() -> None:
    layout = StreamLayout(text=256, rows=32, cols=32)
    sizes = {
        pattern.name: (table.kept, table.stretch)
        for pattern in (
            Pattern(name="row"),
            Pattern(name="column"),
            Pattern(name="conv", kernel=11),
        )
        if (table := kept_slots(pattern, layout))
    }
    assert sizes == {"row": (33, 33), "column": (1024, 32), "conv": (192, 192)}
