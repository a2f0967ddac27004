"""What a look through a data set gave, as text, as JSON and as one HTML file."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from dalle.checkpoint.manifest import write_json
from dalle.cli import plain
from dalle.config import to_json
from dalle.data.inspect import Findings
from dalle.data.pictures import Report

EXAMPLES = 5
"""Of each kind, in the text; the JSON has all."""

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}"
    "img{max-width:100%}.bad{color:#b00020}code{white-space:pre-wrap;word-break:break-all}"
)


def lines(findings: Findings, verdict: Sequence[str], *, room: int) -> list[str]:
    """A few lines of printable characters.

    Args:
        verdict: why training would not work.
        room: tokens that a model has slots for.
    """
    of = "" if findings.of is None else f" of {findings.of}"
    said = [f"looked at {findings.looked_at}{of} pictures"]
    said += (f"  {count} cannot be read: {why}" for why, count in findings.unreadable.items())
    said += (f"    for example {why}" for why in list(findings.bad.values())[:EXAMPLES])
    said.append(f"  shorter sides: {_spread(findings.sizes)} pixels")
    aspects = ", ".join(f"{name}: {count}" for name, count in findings.aspects.items())
    said.append(f"  width / height: {aspects}")
    said.append(f"  tokens of the longest caption of each: {_spread(findings.tokens)}")
    said.append(f"  captions with more than {room} tokens: {findings.too_long}")
    if findings.without_caption:
        said.append(f"  without a caption: {findings.without_caption}")
    for name, pairs in (("the same as", findings.same), ("nearly the same as", findings.near)):
        said.append(f"  pictures that are {name} another: {len(pairs)}")
        said += (f"    {one} and {other}" for one, other in pairs[:EXAMPLES])
    if findings.num_same_name:
        some = ", ".join(findings.same_name[:EXAMPLES])
        said.append(f"  file names in two places: {findings.num_same_name}, such as {some}")
    said += (f"  training would not work: {reason}" for reason in verdict)
    if not verdict:
        said.append("  training would work")
    return [plain(line) for line in said]


def write_report(
    out: Path,
    name: str,
    reports: Sequence[Report],
    findings: Findings,
    verdict: Sequence[str],
    said: Sequence[str],
    sheet: Image.Image | None,
) -> Iterator[Path]:
    """Write report.json, report.html and pairs.png; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    value = {
        "source": name,
        "listing": [to_json(report) for report in reports],
        "findings": to_json(findings),
        "training_would_work": not verdict,
        "because": list(verdict),
    }
    write_json(out / "report.json", value)
    yield out / "report.json"
    if sheet is not None:
        sheet.save(out / "pairs.png")
        yield out / "pairs.png"
    page = _page(name, reports, findings, verdict, said, sheet)
    (out / "report.html").write_text(page, encoding="utf-8")
    yield out / "report.html"


def _page(
    name: str,
    reports: Sequence[Report],
    findings: Findings,
    verdict: Sequence[str],
    said: Sequence[str],
    sheet: Image.Image | None,
) -> str:
    """Everything in one file that loads nothing; what came from the data is escaped."""
    colour = ' class="bad"' if verdict else ""
    judged = "; ".join(verdict) or "Training would work."
    listing = "".join(f"<p><code>{_escaped(report.line())}</code></p>" for report in reports)
    tables = "".join(
        _table(title, "".join(_row(*cells) for cells in rows))
        for title, rows in (
            ("Cannot be read", findings.bad.items()),
            ("The same", findings.same),
            ("Nearly the same", findings.near),
        )
    )
    picture = ""
    if sheet is not None:
        stream = io.BytesIO()
        sheet.save(stream, "PNG")
        data = base64.b64encode(stream.getvalue()).decode()
        picture = (
            f'<h2>Random pairs</h2><img alt="random pairs" src="data:image/png;base64,{data}">'
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{_escaped(name)}</title><style>{_STYLE}</style>"
        f"<h1>{_escaped(name)}</h1><p{colour}>{_escaped(judged)}</p>{listing}"
        f"<pre>{_escaped(chr(10).join(said))}</pre>{picture}"
        f"{tables}</html>\n"
    )


def _table(title: str, rows: str) -> str:
    return f"<h2>{title}</h2><table>{rows}</table>" if rows else ""


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td><code>{_escaped(cell)}</code></td>' for cell in cells)}</tr>"


def _escaped(text: str) -> str:
    return html.escape(plain(text).encode("utf-8", "replace").decode("utf-8"))


def _spread(values: dict[str, float]) -> str:
    if not values:
        return "none"
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())
