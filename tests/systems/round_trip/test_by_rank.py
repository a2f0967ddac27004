"""Quality by rank: small cases by hand, and what must hold of all."""

import math

import numpy as np
import pytest

from dalle.errors import InputError
from dalle.systems.round_trip.by_rank import by_rank, spearman
from dalle.systems.round_trip.curve import curves
from dalle.systems.round_trip.evaluate import table


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        # Differences of ranks 0, 1, -1, 0: 1 - 6 * 2 / (4 * 15).
        ([1.0, 2.0, 3.0, 4.0], [0.1, 0.3, 0.2, 9.0], 0.8),
        # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
        ([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], 4.5 / math.sqrt(4.5 * 5)),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], None),
    ],
)
def test_spearman_is_that_of_the_definition(
    first: list[float], second: list[float], expected: float | None
) -> None:
    found = spearman(np.array(first), np.array(second))
    assert found == (None if expected is None else pytest.approx(expected))
    assert spearman(np.array(second), np.array(first)) == found


def test_a_case_by_hand() -> None:
    similarities = np.array([[0.1, 0.9, 0.5], [0.3, 0.3, 0.2]])
    qualities = np.array([[0.0, 1.0, 0.5], [0.2, 0.8, 0.5]])
    found = by_rank("quality", similarities, qualities)
    # The first picture's order is 1, 2, 0; the second's 0, 1 (as they came), 2.
    assert [mean.value for mean in found.by_rank] == pytest.approx([0.6, 0.65, 0.25])
    assert found.by_rank[0].error == pytest.approx(0.4)
    assert found.mean == pytest.approx(0.5)
    assert found.oracle == pytest.approx(0.9)
    assert found.gain.value == pytest.approx(0.1)
    assert found.gain.error == pytest.approx(0.4)  # 0.5 of the one, -0.3 of the other
    assert found.correlation is not None and found.correlation.count == 2
    # 1 of the one; ranks 2.5, 2.5, 1 against 1, 3, 2 of the other: 0.
    assert found.correlation.value == pytest.approx(0.5)
    assert found.curve_correlation == pytest.approx(-0.5)


def test_shuffled_similarities_choose_the_mean() -> None:
    random = np.random.default_rng(0)
    qualities = random.random((60, 8))
    found = by_rank("quality", qualities + 0.1 * random.random((60, 8)), qualities)
    assert found.by_rank[0].value > 0.85 and found.correlation is not None
    assert found.correlation.value > 0.9
    assert found.shuffled == pytest.approx(found.mean, abs=0.02)
    assert found.shuffled_correlation == pytest.approx(0.0, abs=0.03)
    assert found.curve_correlation == -1.0
    assert found.oracle >= found.by_rank[0].value
    again = by_rank("quality", qualities, qualities, seed=1)
    assert again.shuffled != found.shuffled


def test_the_control_does_not_know_which_candidate_came_first() -> None:
    """Where all are equally similar the first is taken, and the control takes any."""
    qualities = np.tile(np.array([[0.0, 1.0, 1.0, 1.0]]), (40, 1))
    found = by_rank("quality", np.ones((40, 4)), qualities)
    assert found.by_rank[0].value == 0.0
    assert found.shuffled == pytest.approx(0.75, abs=0.03)


def test_where_nothing_differs_nothing_is_correlated() -> None:
    found = by_rank("quality", np.array([[0.2, 0.1]]), np.array([[1.0, 1.0]]))
    assert found.correlation is None and found.shuffled_correlation is None
    assert found.curve_correlation is None
    assert found.gain == by_rank("quality", np.array([[1.0]]), np.array([[7.0]])).gain
    assert "-" in table([found])
    assert curves([found, found]).width == 2 * curves([found]).width
    with pytest.raises(InputError, match="no candidates"):
        by_rank("quality", np.zeros((0, 3)), np.zeros((0, 3)))


def test_the_curve_is_drawn_where_the_numbers_are() -> None:
    """A falling curve has its first dot above its last one."""
    falling = np.tile(np.array([[4.0, 3.0, 2.0, 1.0]]), (5, 1))
    pixels = np.asarray(curves([by_rank("quality", falling, falling)]))
    blue = (pixels[60:] == (37, 99, 235)).all(axis=2)  # beneath the names of the lines
    columns = np.flatnonzero(blue.any(axis=0))
    first, last = columns[0], columns[-1]
    assert np.flatnonzero(blue[:, first]).mean() < np.flatnonzero(blue[:, last]).mean() - 100
