"""What an evaluation found: rows of numbers, each with what it may be compared by."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dalle.config import from_json, to_json
from dalle.errors import ConfigError, InputError
from dalle.evaluation.estimates import Estimate
from dalle.evaluation.protocol import Protocol
from dalle.json_files import read_json

FORMAT = 1
FILE = "report.json"
Better = Literal["higher", "lower", ""]
"""Empty for controls and references."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One number."""

    section: str
    name: str
    value: float
    error: float | None = None
    """Standard error, or what `name` says it is."""
    better: Better = ""
    count: int
    """Of the pictures or captions it is over."""
    by: str = ""
    """The network or tokenizer it depends on: only numbers by the same can be compared."""


def row(
    section: str,
    name: str,
    value: float | Estimate,
    *,
    count: int,
    by: str = "",
    better: Better = "",
) -> Row:
    """A row of a number, or of an estimate with its error."""
    found = value if isinstance(value, Estimate) else Estimate(value, None)
    return Row(
        section=section,
        name=name,
        value=found.mean,
        error=found.error,
        better=better,
        count=count,
        by=by,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What must be the same for two reports to be compared."""

    protocol: Protocol
    num_captions: int
    num_pictures: int
    data: str
    """Fingerprint of the captions and the names of their pictures."""
    image_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """The model that was judged, and how it drew."""

    model: str
    model_hash: str
    weights: str
    sampling: str
    ranker: str
    """What chose among several pictures; empty where there was one for each caption."""
    dtype: str
    device: str
    versions: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """An evaluation."""

    format: int = FORMAT
    judged: Judged
    source: str
    """The data set as it was named."""
    conditions: Conditions
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def value(self, section: str, name: str) -> float:
        """The number of a row."""
        return next(r.value for r in self.rows if (r.section, r.name) == (section, name))


def write_report(report: Report, path: Path) -> None:
    """As JSON; what was there is replaced."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(to_json(report), indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def read_report(where: str | Path) -> Report:
    """From a file, or from the folder of an evaluation.

    Raises:
        InputError: there is none, or it is damaged.
    """
    given = Path(where).expanduser()
    path = given / FILE if given.is_dir() else given
    try:
        return from_json(Report, read_json(path), path=str(path))
    except OSError as error:
        raise InputError(
            f"there is no report {path} ({error.strerror}); `dalle evaluate` writes one"
        ) from None
    except (ValueError, ConfigError) as error:
        raise InputError(f"{path} is no report of an evaluation: {error}") from None


def number(value: float) -> str:
    """Four figures."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def text(report: Report) -> str:
    """A table for the terminal: names, numbers, errors, counts, and below what they depend on."""
    judged, conditions = report.judged, report.conditions
    protocol, (height, width) = conditions.protocol, conditions.image_size
    lines = [
        f"{judged.model} ({judged.weights} weights) on {report.source}",
        f"protocol {protocol.name}: {conditions.num_captions} captions of "
        f"{conditions.num_pictures} pictures of {height} x {width}, {protocol.samples} drawn for "
        f"each{f', the best by {judged.ranker}' if judged.ranker else ''}; seed {protocol.seed}",
        f"drawn with {judged.sampling}; {judged.dtype} on {judged.device}; {judged.versions}",
    ]
    bases = list(dict.fromkeys(row.by for row in report.rows if row.by))
    width = max((len(row.name) for row in report.rows), default=0) + 2
    for section, rows in by_section(report.rows):
        lines += ["", section]
        for row in rows:
            error = "" if row.error is None else f"({row.error:.2g})"
            mark = f"[{bases.index(row.by) + 1}]" if row.by else ""
            arrow = {"higher": "higher is better", "lower": "lower is better", "": ""}[row.better]
            line = (
                f"  {row.name:{width}}{number(row.value):>10} {error:>10}  n {row.count:<7}"
                f"{mark:5}{arrow}"
            )
            lines.append(line.rstrip())
    lines += ["", "In brackets: standard errors, where there are any."]
    lines += [f"[{i}] {by}" for i, by in enumerate(bases, start=1)]
    return "\n".join([*lines, *report.notes])


def by_section(rows: Iterable[Row]) -> Iterable[tuple[str, list[Row]]]:
    """The sections in the order of their first rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.section, []).append(row)
    return found.items()
