"""Curves as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE = (640, 400)
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 44, 52
INK, PALE, LINE, PAPER = (24, 24, 27), (113, 113, 122), (228, 228, 231), (255, 255, 255)
COLOURS = ((37, 99, 235), (220, 38, 38), (22, 163, 74), (147, 51, 234))
STEPS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Values at the chart's places, from left to right."""

    name: str
    values: tuple[float, ...]


def chart(
    title: str, *, across: str, places: Sequence[str], curves: Sequence[Curve]
) -> Image.Image:
    """One chart; the places stand at equal distances, as powers of two do on a logarithmic axis.

    Args:
        title: what the values are.
        across: what the places are.
        places: their labels.
        curves: at least one, of as many values as there are places.
    """
    page = Image.new("RGB", SIZE, PAPER)
    draw, font, small = ImageDraw.Draw(page), ImageFont.load_default(17), ImageFont.load_default(13)
    values = [value for curve in curves for value in curve.values]
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin

    def point(place: int, value: float) -> tuple[float, float]:
        wide, tall = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM
        x = LEFT + (place + 0.5) / len(places) * wide
        return x, TOP + (high - value) / (high - low) * tall

    draw.text((LEFT, 12), title, INK, font=font)
    for step in range(STEPS + 1):
        value = low + (high - low) * step / STEPS
        y = point(0, value)[1]
        draw.line((LEFT, y, SIZE[0] - RIGHT, y), fill=LINE)
        draw.text((LEFT - 8, y), f"{value:.4g}", PALE, font=small, anchor="rm")
    for place, label in enumerate(places):
        x = point(place, low)[0]
        draw.text((x, SIZE[1] - BOTTOM + 8), label, PALE, font=small, anchor="ma")
    draw.text((SIZE[0] / 2, SIZE[1] - 10), across, INK, font=small, anchor="ms")
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        points = [point(place, value) for place, value in enumerate(curve.values)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        if len(curves) > 1:
            corner = (SIZE[0] - RIGHT, 14 + 16 * number)
            draw.text(corner, curve.name, colour, font=small, anchor="ra")
    return page
