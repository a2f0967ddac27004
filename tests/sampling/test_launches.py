"""Launches: every picture once, few places wasted, one shape."""

import pytest

from dalle.sampling.launches import LaunchShape, launch_shape, launches

COUNTS = [[1], [512], [33], [20] * 5, [3] * 10, [40, 1, 1, 7], [1] * 7, [5, 2, 9, 1] * 6]


@pytest.mark.parametrize("full", [False, True], ids=["short", "full"])
@pytest.mark.parametrize("most", [1, 3, 8, 32])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_every_picture_is_in_one_launch_beside_others_of_its_prompt(
    counts: list[int], most: int, full: bool
) -> None:
    shape = launch_shape(counts, most, full=full)
    prompt_of = [prompt for prompt, count in enumerate(counts) for _ in range(count)]
    found = list(launches(prompt_of, shape))
    assert len(found) == shape.count(counts)
    assert shape.size <= most
    seen: list[int] = []
    for launch in found:
        assert (len(launch.prompts), len(launch.pictures)) == (shape.groups, shape.size)
        shown = [prompt for prompt in launch.prompts for _ in range(shape.samples)]
        assert [prompt_of[picture] for picture in launch.pictures] == shown
        seen += sorted(set(launch.pictures))
    assert seen == list(range(len(prompt_of)))


@pytest.mark.parametrize(
    ("counts", "most", "full", "expected"),
    [
        ([512], 32, True, LaunchShape(1, 32)),
        ([1], 32, True, LaunchShape(1, 32)),  # as its neighbours among 512 were sampled
        ([1], 32, False, LaunchShape(1, 1)),
        ([33], 32, False, LaunchShape(1, 17)),  # rather than 32 and then 31 for nothing
        ([3] * 10, 32, False, LaunchShape(10, 3)),
        ([40, 1, 1, 7], 32, False, LaunchShape(4, 8)),
    ],
)
def test_shapes_are_the_cheapest(
    counts: list[int], most: int, full: bool, expected: LaunchShape
) -> None:
    assert launch_shape(counts, most, full=full) == expected


def test_small_requests_fill_launches_together() -> None:
    counts = [1, 2, 1, 3, 1, 1, 30, 2, 1, 1]
    shape = launch_shape(counts, 32, full=True)
    assert shape.count(counts) <= 3, "one by one they would be ten"
