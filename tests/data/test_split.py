"""The held-out part: reproducible, stable when the data grow, never shared."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from dalle.data.split import Subset, all_captions, captions_at, key_at, split_held_out
from dalle.errors import ConfigError, DataError
from dalle.protocols import Sample


class Numbered:
    """Samples with keys and captions; reading number `bad` fails."""

    def __init__(self, keys: list[str], *, bad: int | None = None) -> None:
        self.keys = keys
        self.bad = bad
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int, /) -> Sample:
        self.read.append(index)
        if index == self.bad:
            raise DataError("damaged")
        captions = (f"caption {index}", "other")
        return Sample(key=self.keys[index], image=Image.new("RGB", (2, 2)), captions=captions)


class Listed(Numbered):
    """The same, telling keys and captions without reading."""

    def key(self, index: int) -> str:
        return self.keys[index]

    def captions(self, index: int) -> tuple[str, ...]:
        return (f"caption {index}",)


def keys(source: object) -> set[str]:
    return {source.key(i) for i in range(len(source))}  # type: ignore[attr-defined, arg-type]


NAMES = [f"folder/{i:04}.png" for i in range(600)]


def test_the_parts_share_nothing_and_lack_nothing() -> None:
    for options in ({"fraction": 0.1}, {"count": 60}):
        source = Listed(NAMES)
        split = split_held_out(source, **options)
        assert keys(split.train) | keys(split.held_out) == set(NAMES)
        assert not keys(split.train) & keys(split.held_out)
        assert 35 < len(split.held_out) < 85
        assert source.read == []
    assert len(split_held_out(Listed(NAMES), count=60).held_out) == 60


def test_the_side_of_a_sample_does_not_depend_on_the_others() -> None:
    before = keys(split_held_out(Listed(NAMES[:300]), fraction=0.1).held_out)
    after = keys(split_held_out(Listed(NAMES[::-1]), fraction=0.1).held_out)
    assert before == after & set(NAMES[:300])
    fewer = keys(split_held_out(Listed(NAMES[:570]), count=60).held_out)
    more = keys(split_held_out(Listed(NAMES), count=60).held_out)
    assert len(fewer & more) > 48


def test_other_seeds_hold_out_others() -> None:
    one, same, other = (
        keys(split_held_out(Listed(NAMES), fraction=0.1, seed=seed).held_out) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_pictures_of_one_name_stay_together() -> None:
    names = [f"{i}.{extension}" for i in range(300) for extension in ("png", "jpg")]
    held_out = keys(split_held_out(Listed(names), fraction=0.2).held_out)
    assert {name.split(".")[0] + ".png" for name in held_out} <= held_out
    assert {name.split(".")[0] + ".jpg" for name in held_out} <= held_out


def test_each_part_has_a_sample() -> None:
    for fraction in (1e-9, 1 - 1e-9):
        split = split_held_out(Listed(NAMES[:5]), fraction=fraction)
        assert min(len(split.train), len(split.held_out)) == 1
    for count in (1, 4):
        assert len(split_held_out(Listed(NAMES[:5]), count=count).held_out) == count


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fraction": 0.1, "count": 3},
        {"fraction": 0.0},
        {"fraction": 1.0},
        {"fraction": float("nan")},
        {"count": 0},
        {"count": 10},
    ],
)
def test_numbers_that_make_no_split_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give one of the two"):
        split_held_out(Listed(NAMES[:10]), **options)


def test_one_sample_cannot_be_split() -> None:
    for names in (["a.png"], ["a.png", "a.jpg"]):
        with pytest.raises(ConfigError, match="give a held-out data set"):
            split_held_out(Listed(names), fraction=0.5)


def test_a_subset_is_its_samples_in_order() -> None:
    source = Listed(NAMES)
    subset = Subset(Subset(source, [7, 3, 11]), np.array([2, 0]))
    assert [subset[i].key for i in range(2)] == [NAMES[11], NAMES[7]]
    assert (subset.key(0), subset.captions(1)) == (NAMES[11], ("caption 7",))
    for index in (-1, 2):
        with pytest.raises(IndexError):
            subset[index]


def test_sources_that_tell_nothing_are_numbered_and_read() -> None:
    source = Numbered(NAMES[:3], bad=1)
    assert key_at(source, 2) == "2"
    assert captions_at(source, 2) == ("caption 2", "other")
    assert list(all_captions(source)) == ["caption 0", "other", "caption 2", "other"]
    listed = Listed(NAMES[:3], bad=1)
    assert list(all_captions(listed)) == ["caption 0", "caption 1", "caption 2"]
    assert listed.read == []
    split = split_held_out(source, count=1)
    assert keys(split.train) | keys(split.held_out) == {"0", "1", "2"}
