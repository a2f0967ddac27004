"""The mean of a measure at each rank, drawn: a panel for each measure."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dalle.systems.round_trip.by_rank import ByRank

PANEL = (420, 300)
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 40, 46
INK, PALE, LINE = (24, 24, 27), (161, 161, 170), (37, 99, 235)
PAPER = (255, 255, 255)
SIZE = 13
DOT = 3


def curves(results: Sequence[ByRank]) -> Image.Image:
    """One page: each measure by rank with its standard errors, and a level line at its mean."""
    page = Image.new("RGB", (PANEL[0] * len(results), PANEL[1]), PAPER)
    for number, result in enumerate(results):
        page.paste(_panel(result), (number * PANEL[0], 0))
    return page


def _panel(result: ByRank) -> Image.Image:
    panel = Image.new("RGB", PANEL, PAPER)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(SIZE)
    values = [(mean.value, mean.error or 0.0) for mean in result.by_rank]
    low = min([value - error for value, error in values] + [result.mean, result.shuffled])
    high = max([value + error for value, error in values] + [result.mean, result.shuffled])
    pad = 0.08 * (high - low) or 0.5
    low, high = low - pad, high + pad
    right, bottom = PANEL[0] - RIGHT, PANEL[1] - BOTTOM

    def across(rank: int) -> float:
        return LEFT + (rank + 0.5) * (right - LEFT) / len(values)

    def down(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - TOP)

    draw.text((LEFT, 12), f"{result.measure} by rank of similarity", INK, font=font)
    for i in range(5):
        value = low + (high - low) * i / 4
        draw.line((LEFT - 4, down(value), LEFT, down(value)), PALE)
        draw.text((LEFT - 8, down(value)), f"{value:.3f}", INK, font=font, anchor="rm")
    draw.line((LEFT, TOP, LEFT, bottom, right, bottom), PALE)
    draw.line((LEFT, down(result.mean), right, down(result.mean)), PALE)
    draw.text((right, down(result.mean) - 2), "mean", PALE, font=font, anchor="rb")
    for rank, (value, error) in enumerate(values):
        x, y = across(rank), down(value)
        draw.line((x, down(value - error), x, down(value + error)), LINE)
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=LINE)
        draw.text((x, bottom + 6), str(rank + 1), INK, font=font, anchor="mt")
    points = [(across(rank), down(value)) for rank, (value, _) in enumerate(values)]
    draw.line(points, LINE, width=2)
    draw.text(((LEFT + right) / 2, PANEL[1] - 8), "rank", INK, font=font, anchor="mb")
    return panel
