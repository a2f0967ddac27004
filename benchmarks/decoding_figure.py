"""A picture of throughput over the number of samples, with the floor of the machine drawn in.

    python benchmarks/decoding_figure.py FILE.json ... --out FIGURE.png

The files are what decoding.py wrote; the rows "ours" and the floors beside them are drawn.
"""

import argparse
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 600, 96, 220, 56, 72
COLOURS = {"float32": (31, 90, 166), "bfloat16": (196, 78, 28)}
GREY, INK = (214, 214, 214), (40, 40, 40)
Point = tuple[float, float]


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    flags = parser.parse_args()
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in flags.files]
    ours = [row for report in reports for row in report["rows"] if row["step"] == "ours"]
    threads = sorted({report["threads"] for report in reports})
    title = f"Tokens a second while decoding, {' and '.join(map(str, threads))} thread(s)"
    draw(ours, title).save(flags.out)


def draw(rows: list[dict[str, Any]], title: str) -> Image.Image:
    """Lines of what was measured, and dashed ones of the floors, on logarithmic axes."""
    lines: dict[str, list[Point]] = {}
    for precision in COLOURS:
        own = sorted((r for r in rows if r["precision"] == precision), key=lambda r: r["samples"])
        if own:
            lines[precision] = [(r["samples"], r["tokens_a_second"]) for r in own]
            floors = [(r["samples"], 1000 * r["samples"] / r["floor_ms"]) for r in own]
            lines[f"{precision} floor"] = floors
    points = [point for line in lines.values() for point in line]
    across = _scale([x for x, _ in points], LEFT, WIDTH - RIGHT)
    upward = _scale([y for _, y in points], HEIGHT - BOTTOM, TOP)
    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    pen.text((LEFT, 18), title, fill=INK, font=font)
    for x in sorted({x for x, _ in points}):
        place = across(x)
        pen.line([(place, TOP), (place, HEIGHT - BOTTOM)], fill=GREY)
        pen.text((place, HEIGHT - BOTTOM + 8), f"{x:g}", fill=INK, font=font, anchor="ma")
    for y in _round_numbers([y for _, y in points]):
        place = upward(y)
        pen.line([(LEFT, place), (WIDTH - RIGHT, place)], fill=GREY)
        pen.text((LEFT - 8, place), f"{y:,g}", fill=INK, font=font, anchor="rm")
    middle = (LEFT + WIDTH - RIGHT) / 2
    pen.text((middle, HEIGHT - 28), "samples of a prompt", fill=INK, font=font, anchor="mm")
    for name, line in lines.items():
        colour, is_floor = COLOURS[name.split()[0]], name.endswith("floor")
        placed = [(across(x), upward(y)) for x, y in line]
        for begin, end in pairwise(placed):
            (_dashed if is_floor else _solid)(pen, begin, end, colour)
        for x, y in placed:
            if not is_floor:
                pen.ellipse([(x - 4, y - 4), (x + 4, y + 4)], fill=colour)
    ends = sorted((upward(line[-1][1]), name) for name, line in lines.items())
    for i, (y, name) in enumerate(ends):
        # Names that would lie on one another are moved down.
        place = max(y, ends[i - 1][0] + 20) if i else y
        ends[i] = place, name
        pen.text(
            (WIDTH - RIGHT + 10, place), name, fill=COLOURS[name.split()[0]], font=font, anchor="lm"
        )
    return page


def _scale(values: list[float], low: float, high: float) -> Callable[[float], float]:
    """Places of numbers from the least to the greatest of them, by their logarithms."""
    least, most = math.log(min(values)), math.log(max(values))
    return lambda value: low + (math.log(value) - least) / (most - least or 1.0) * (high - low)


def _round_numbers(values: list[float]) -> list[float]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    some = [m * 10.0**e for e in range(low, high + 1) for m in (1, 2, 5)]
    return [y for y in some if min(values) <= y <= max(values)]


def _solid(pen: ImageDraw.ImageDraw, begin: Point, end: Point, colour: tuple[int, ...]) -> None:
    pen.line([begin, end], fill=colour, width=3)


def _dashed(pen: ImageDraw.ImageDraw, begin: Point, end: Point, colour: tuple[int, ...]) -> None:
    pieces = max(1, round(math.dist(begin, end) / 8))
    for i in range(0, pieces, 2):
        part = [
            (a + (b - a) * t / pieces) for t in (i, i + 1) for a, b in zip(begin, end, strict=True)
        ]
        pen.line(part, fill=colour, width=2)


if __name__ == "__main__":
    main()
