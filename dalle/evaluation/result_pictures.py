"""Results to look at: the best, the middle and the worst pictures, and curves."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dalle.checkpoint.manifest import saving
from dalle.evaluation.chart import Curve, chart
from dalle.evaluation.generated import BEST_OF
from dalle.evaluation.protocol import Protocol
from dalle.evaluation.report import Report
from dalle.evaluation.samples import Drawn, read_picture
from dalle.sampling.contact_sheet import Band, Entry, contact_sheet
from dalle.sampling.prompts import printable

SHOWN = 8
LINE_LENGTH = 22


def write_pictures(
    report: Report,
    *,
    captions: Sequence[str],
    drawn: list[Drawn],
    cosines: Sequence[float] | None,
    out: Path,
) -> list[Path]:
    """Write what the report has pictures for.

    Args:
        cosines: of each caption and the picture kept for it; None where nothing judged them.
        out: the folder of the evaluation; older pictures are replaced.

    Returns:
        Where they are.
    """
    pictures = dict(_charts(report))
    if drawn and cosines is not None:
        pictures["samples.png"] = _sheet(captions, drawn, cosines, out)
    for name, picture in pictures.items():
        with saving(out / name):
            picture.save(out / name)
    return [out / name for name in pictures]


def _charts(report: Report) -> list[tuple[str, Image.Image]]:
    protocol = report.conditions.protocol
    wanted = [("fid-blur.png", "FID", "radius of the blur", _fids_over_blur(report, protocol))]
    names = [str(n) for n in protocol.best_of]
    for file, title, begins in (
        ("best-of-fid.png", "FID, lower is better", "FID"),
        ("best-of-cosine.png", "cosine of caption and picture", "cosine"),
        ("best-of-inception.png", "Inception score", "Inception score"),
    ):
        values = [
            row.value
            for row in report.rows
            if row.section == BEST_OF and row.name.startswith(begins)
        ]
        wanted.append((file, title, "best of", list(zip(names, values, strict=False))))
    return [
        (
            file,
            chart(
                title,
                across=across,
                places=[place for place, _ in points],
                curves=[Curve(name=title, values=tuple(value for _, value in points))],
            ),
        )
        for file, title, across, points in wanted
        if len(points) > 1
    ]


def _fids_over_blur(report: Report, protocol: Protocol) -> list[tuple[str, float]]:
    values = {row.name: row.value for row in report.rows}
    radii = [f"{radius:g}" for radius in protocol.blur]
    return [(r, values[f"FID, blur {r}"]) for r in radii if f"FID, blur {r}" in values]


def _sheet(
    captions: Sequence[str], drawn: list[Drawn], cosines: Sequence[float], out: Path
) -> Image.Image:
    order = sorted(range(len(drawn)), key=lambda i: -cosines[i])
    middle = max(0, len(order) // 2 - SHOWN // 2)
    bands = []
    for title, part in (
        ("the best", order[:SHOWN]),
        ("the middle", order[middle : middle + SHOWN]),
        ("the worst", order[-SHOWN:]),
    ):
        entries = tuple(
            Entry(
                image=read_picture(out, i, drawn[i].best[-1]),
                caption=(f"{cosines[i]:.3f}, no. {i}", *_lines(captions[i])),
            )
            for i in part
        )
        note = f"of {len(drawn)} captions, by the cosine of the CLIP that judges"
        bands.append(Band(title=title, note=note, entries=entries))
    return contact_sheet(bands)


def _lines(caption: str) -> tuple[str, ...]:
    """The beginning of a caption in at most two short lines."""
    lines = textwrap.wrap(printable(caption), LINE_LENGTH, max_lines=2, placeholder=" ...")
    return tuple(lines)
