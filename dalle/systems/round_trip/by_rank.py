"""How good candidates are at each rank by their similarity: does the order agree with quality?

Every picture has as many candidates as any other, duplicates counted as often as they came: else
the last ranks would be those of pictures about which much can be said.

Source: arXiv 2212.12249, section 4.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from dalle.errors import InputError

SHUFFLES = 100


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over pictures."""

    value: float
    error: float | None
    """Its standard error; None of a single picture."""
    count: int
    """How many pictures it is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ByRank:
    """One measure of quality of all candidates, ordered by another's similarity."""

    measure: str
    by_rank: tuple[Mean, ...]
    """Of the candidates with the highest similarity, the second highest, ..."""
    mean: float
    """Of all candidates: what taking any of them gives."""
    gain: Mean
    """Of the first rank over the mean of all, picture by picture."""
    oracle: float
    """Taking each picture's best candidate by the measure itself."""
    shuffled: float
    """The control: the first rank when the similarities belong to a picture's candidates at random,
    the mean of 100 times."""
    correlation: Mean | None
    """Spearman's, of similarity and quality among a picture's candidates; pictures of which all
    candidates are equal in one of the two have none."""
    shuffled_correlation: float | None
    """The same of the control."""
    curve_correlation: float | None
    """Spearman's, of the rank's number and the mean at it: -1 when every rank is worse than the
    one before; None when all are equal."""


def by_rank(
    measure: str,
    similarities: Float[ndarray, "pictures candidates"],
    qualities: Float[ndarray, "pictures candidates"],
    *,
    seed: int = 0,
) -> ByRank:
    """Order each picture's candidates by similarity, equal ones as they came, and average.

    Args:
        measure: its name.
        similarities: of each candidate; higher comes first.
        qualities: the measure of the same candidates; higher is better.
        seed: of the shuffled control.

    Raises:
        InputError: there are none.
    """
    if similarities.size == 0:
        raise InputError("there are no candidates to be judged; expected a picture at least")
    random = np.random.default_rng(seed)
    ordered = _ordered(similarities, qualities)
    # Not the similarities: of equal ones the first would be taken, whatever its quality is.
    controls = [random.permuted(qualities, axis=1) for _ in range(SHUFFLES)]
    means = ordered.mean(axis=0)
    of_controls = [_correlations(similarities, control) for control in controls]
    defined = np.concatenate(of_controls)
    correlations = _correlations(similarities, qualities)
    return ByRank(
        measure=measure,
        by_rank=tuple(_mean(ordered[:, rank]) for rank in range(ordered.shape[1])),
        mean=float(qualities.mean()),
        gain=_mean(ordered[:, 0] - qualities.mean(axis=1)),
        oracle=float(qualities.max(axis=1).mean()),
        shuffled=float(np.mean([_ordered(similarities, one)[:, 0] for one in controls])),
        correlation=_mean(correlations) if len(correlations) else None,
        shuffled_correlation=float(defined.mean()) if len(defined) else None,
        curve_correlation=spearman(np.arange(len(means), dtype=float), means),
    )


def spearman(first: Float[ndarray, " n"], second: Float[ndarray, " n"]) -> float | None:
    """Spearman's rank correlation, equal values at the mean of their ranks; None if all are equal.

    Source: C. Spearman, The proof and measurement of association between two things, 1904.
    """
    a, b = _ranks(first), _ranks(second)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else None


def _ranks(values: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    less = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return less + (equal - 1) / 2


def _ordered(
    similarities: Float[ndarray, "pictures candidates"],
    qualities: Float[ndarray, "pictures candidates"],
) -> Float[ndarray, "pictures candidates"]:
    order = np.argsort(-similarities, axis=1, kind="stable")
    return np.take_along_axis(qualities, order, axis=1)


def _correlations(
    similarities: Float[ndarray, "pictures candidates"],
    qualities: Float[ndarray, "pictures candidates"],
) -> Float[ndarray, " defined"]:
    each = [spearman(s, q) for s, q in zip(similarities, qualities, strict=True)]
    return np.array([value for value in each if value is not None], dtype=float)


def _mean(values: Float[ndarray, " n"]) -> Mean:
    count = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    return Mean(float(values.mean()), error, count)
