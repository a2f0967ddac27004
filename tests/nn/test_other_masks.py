"""The patterns of other projects, against drawings and counts of what their code computes."""

from pathlib import Path

import pytest

from dalle.errors import ConfigError
from dalle.layout import StreamLayout
from dalle.nn.masks import Pattern, dense_mask, draw_mask

DRAWN = Path(__file__).parents[1] / "golden" / "masks_rudalle.txt"


@pytest.mark.parametrize("name", ["square", "torus"])
def test_mask_equals_the_drawing_cell_by_cell(name: str) -> None:
    layout = StreamLayout(text=4, rows=4, cols=4)
    drawing = DRAWN.read_text().split(f"[{name}]\n")[1].split("\n\n")[0].rstrip()
    assert draw_mask(dense_mask(Pattern(name=name, kernel=3), layout), layout) == drawing


@pytest.mark.parametrize(("name", "ones", "most"), [("square", 52_354, 61), ("torus", 62_464, 121)])
def test_counts_at_full_size(name: str, ones: int, most: int) -> None:
    layout = StreamLayout(text=1, rows=32, cols=32)
    image = dense_mask(Pattern(name=name, kernel=11), layout)[1:, 1:]
    assert (int(image.sum()), int(image.sum(dim=1).max())) == (ones, most)


@pytest.mark.parametrize("name", ["square", "torus"])
def test_an_even_square_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the {name} pattern has kernel 4; expected an odd"):
        Pattern(name=name, kernel=4)
