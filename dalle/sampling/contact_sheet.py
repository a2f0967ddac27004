"""Pictures beside each other on one page, each group under its prompt, with scores and seeds."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

INK = (24, 24, 27)
PALE = (113, 113, 122)
FRAME = (212, 212, 216)
PAPER = (255, 255, 255)
MARGIN = 16
GAP = 10
COLUMNS = 8
SMALLEST_CELL = 112
LARGEST_CELL = 256
PROMPT_SIZE = 17
CAPTION_SIZE = 13
PROMPT_LINES = 4
"""What is longer ends in an ellipsis; the files have the whole prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One picture and the lines beneath it."""

    image: Image.Image
    caption: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """A prompt and its pictures."""

    title: str
    """Of any script; what the font lacks is spelled out or shown as a box."""
    note: str
    """Small, beneath the title."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class _Cell:
    """What every picture of a page takes up."""

    width: int
    height: int
    caption_lines: int

    @property
    def outer_height(self) -> int:
        return self.height + self.caption_lines * _line(CAPTION_SIZE) + 2 * GAP


def contact_sheet(bands: Sequence[Band]) -> Image.Image:
    """One page, at least one picture wide."""
    cell = _cell([entry for band in bands for entry in band.entries])
    columns = min(COLUMNS, max(len(band.entries) for band in bands))
    # A page of one column still has room for a prompt.
    inner = max(columns * (cell.width + GAP) - GAP, 3 * SMALLEST_CELL)
    heads = [_head(band, inner) for band in bands]
    heights = [
        head.height + -(-len(band.entries) // columns) * cell.outer_height
        for head, band in zip(heads, bands, strict=True)
    ]
    height = sum(heights) + (len(bands) - 1) * GAP + 2 * MARGIN
    page = Image.new("RGB", (inner + 2 * MARGIN, height), PAPER)
    top = MARGIN
    for head, band, band_height in zip(heads, bands, heights, strict=True):
        page.paste(head, (MARGIN, top))
        for i, entry in enumerate(band.entries):
            row, col = divmod(i, columns)
            left = MARGIN + col * (cell.width + GAP)
            _draw_entry(page, entry, left, top + head.height + row * cell.outer_height, cell)
        top += band_height + GAP
    return page


def _head(band: Band, width: int) -> Image.Image:
    """Title and note of a band, as wide as the page allows."""
    title = _wrap(_drawable(band.title), PROMPT_SIZE, width)
    note = _wrap(_drawable(band.note), CAPTION_SIZE, width)
    title_height = len(title) * _line(PROMPT_SIZE)
    height = title_height + len(note) * _line(CAPTION_SIZE) + 6
    head = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(head)
    for i, line in enumerate(title):
        draw.text((0, i * _line(PROMPT_SIZE)), line, INK, font=_font(PROMPT_SIZE))
    for i, line in enumerate(note):
        top = title_height + i * _line(CAPTION_SIZE)
        draw.text((0, top), line, PALE, font=_font(CAPTION_SIZE))
    return head


def _draw_entry(page: Image.Image, entry: Entry, left: int, top: int, cell: _Cell) -> None:
    draw = ImageDraw.Draw(page)
    image = _fit(entry.image, cell)
    draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=FRAME)
    page.paste(image, (left, top))
    for i, line in enumerate(entry.caption):
        place = (left, top + cell.height + 4 + i * _line(CAPTION_SIZE))
        draw.text(place, line, INK if i == 0 else PALE, font=_font(CAPTION_SIZE))


def _cell(entries: Sequence[Entry]) -> _Cell:
    longest = max(max(entry.image.size) for entry in entries)
    # Whole factors, so that the pixels of small pictures stay square.
    scale = LARGEST_CELL / longest if longest > LARGEST_CELL else -(-SMALLEST_CELL // longest)
    texts = [line for entry in entries for line in entry.caption]
    text_width = max((_font(CAPTION_SIZE).getlength(text) for text in texts), default=0)
    width = max(round(max(entry.image.width for entry in entries) * scale), int(text_width) + 1)
    height = round(max(entry.image.height for entry in entries) * scale)
    return _Cell(width, max(height, 1), max(len(entry.caption) for entry in entries))


def _fit(image: Image.Image, cell: _Cell) -> Image.Image:
    scale = min(cell.width / image.width, cell.height / image.height)
    small = scale >= 1
    size = (
        max(1, round(image.width * (int(scale) if small else scale))),
        max(1, round(image.height * (int(scale) if small else scale))),
    )
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, how)


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels; words that are longer are broken."""
    font, rest = _font(size), text.strip()
    lines: list[str] = []
    while rest and len(lines) < PROMPT_LINES:
        count = _num_fitting(rest, font, width)
        if count < len(rest):
            space = rest.rfind(" ", 0, count + 1)
            count = space if space > 0 else count
        lines.append(rest[:count].rstrip())
        rest = rest[count:].lstrip()
    if rest:
        last = lines[-1]
        lines[-1] = last[: _num_fitting(last, font, width - int(font.getlength("…")) - 1)] + "…"
    return lines


def _num_fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many characters fit, at least 1; found by halving, since prompts may be very long."""
    low, high = 1, min(len(text), width)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low


def _drawable(text: str) -> str:
    """The text in characters that the font has, which are few.

    An accent that it lacks is left out; a symbol is spelled by its Unicode name, `[grinning
    face]`; a letter of another script becomes a box; what has no picture of its own (joiners,
    marks of direction) is dropped.
    """
    return "".join(_spell(character) for character in text[:4000])


@cache
def _spell(character: str) -> str:
    if character.isspace():
        return " "
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Cs", "Mn", "Me"):
        return ""
    if _has_glyph(character):
        return character
    plain = "".join(filter(_has_glyph, unicodedata.normalize("NFKD", character)))
    if plain:
        return plain
    if category == "Pd":
        return "-"
    name = unicodedata.name(character, "").lower()
    return f"[{name}]" if category == "So" and name else "□"


@cache
def _has_glyph(character: str) -> bool:
    font = _font(PROMPT_SIZE)
    # A noncharacter, for which no font has a glyph: what is drawn is the sign of its absence.
    return bytes(font.getmask(character)) != bytes(font.getmask("\U0010ffff"))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow without FreeType"
    return font


def _line(size: int) -> int:
    return round(size * 1.35)
