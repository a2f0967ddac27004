"""Two evaluations side by side, where their numbers may stand so."""

import math

from dalle.config import to_json
from dalle.errors import InputError
from dalle.evaluation.report import Report, Row, by_section, number


def compare(a: Report, b: Report) -> str:
    """A table of both, with differences; rows by different networks are marked, not compared.

    Raises:
        InputError: the protocols, the captions or the sizes of the pictures differ.
    """
    _check(a, b)
    theirs = {(row.section, row.name): row for row in b.rows}
    shared = [row for row in a.rows if (row.section, row.name) in theirs]
    width = max((len(row.name) for row in shared), default=0) + 2
    lines = [
        f"A: {a.judged.model} ({a.judged.sampling})",
        f"B: {b.judged.model} ({b.judged.sampling})",
        f"{'':{width + 2}}{'A':>10}{'B':>10}{'B - A':>10}",
    ]
    for section, rows in by_section(shared):
        lines += ["", section]
        for row in rows:
            other = theirs[row.section, row.name]
            values = f"{number(row.value):>10}{number(other.value):>10}"
            lines.append(f"  {row.name:{width}}{values}{_difference(row, other)}".rstrip())
    alone = [
        f"only in {side}: {row.section}, {row.name}"
        for side, mine, others in (("A", a.rows, b.rows), ("B", b.rows, a.rows))
        for row in mine
        if (row.section, row.name) not in {(r.section, r.name) for r in others}
    ]
    closing = "(x s.e.): the difference in its standard errors, the two taken for independent."
    return "\n".join([*lines, "", closing, *alone])


def _difference(a: Row, b: Row) -> str:
    if (a.by, a.count) != (b.by, b.count):
        what = "counts" if a.by == b.by else f"bases: {a.by}; {b.by}"
        return f"{'-':>10}  not comparable, other {what}"
    change = b.value - a.value
    said = f"{number(change):>10}"
    if a.error and b.error and a.better:
        said += f"  ({abs(change) / math.hypot(a.error, b.error):.1f} s.e.)"
    if a.better and change:
        said += f"  {'B' if (change > 0) == (a.better == 'higher') else 'A'} is better"
    return said


def _check(a: Report, b: Report) -> None:
    one, two = to_json(a.conditions), to_json(b.conditions)
    pairs = {**one, **one.pop("protocol")}, {**two, **two.pop("protocol")}
    pairs[0].pop("protocol"), pairs[1].pop("protocol")
    differing = [
        f"{name} {pairs[0][name]} against {pairs[1][name]}"
        for name in pairs[0]
        if pairs[0][name] != pairs[1][name]
    ]
    if differing:
        raise InputError(
            f"these evaluations cannot be compared, as they differ in {'; '.join(differing)}: "
            "evaluate both in the same way"
        )
