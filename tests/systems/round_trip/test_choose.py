"""Choosing: the best is taken, equal ones once, and all of it is a function of the seed."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from benchmarks.round_trip import ErringCaptioner, KnownCaptioner, ShapesJudge
from dalle.data.shapes import ShapesSource
from dalle.errors import InputError
from dalle.systems.round_trip.choose import (
    choose_caption,
    choose_caption_by_score,
    choose_picture,
    different,
    normalised,
)
from tests.systems.round_trip.painters import PlainSimilarity, ScenePainter

GREY = Image.new("RGB", (8, 8), (128, 128, 128))


class Says:
    """Captions that were given, whatever the picture."""

    def __init__(self, *captions: str) -> None:
        self.captions = captions
        self.seen = 0

    def caption(
        self, images: Sequence[Image.Image], *, num_captions: int, seed: int
    ) -> list[list[str]]:
        self.seen += len(images)
        return [list(self.captions[:num_captions]) for _ in images]


class Greys:
    """Paints a text as grey as it is long, brighter by the seed's last digit."""

    def generate(
        self, texts: Sequence[str], *, num_pictures: int, seed: int
    ) -> list[list[Image.Image]]:
        return [[self._grey(text, seed + i) for i in range(num_pictures)] for text in texts]

    def _grey(self, text: str, seed: int) -> Image.Image:
        return Image.new("RGB", (8, 8), (10 * len(text) + seed % 10,) * 3)


class Brightness:
    """Of pictures, by how near their greys are; of texts, by how near their lengths are."""

    def images(self, image: Image.Image, others: Sequence[Image.Image]) -> Float[Tensor, " n"]:
        def grey(one: Image.Image) -> float:
            return float(np.asarray(one).mean())

        return torch.tensor([-abs(grey(image) - grey(other)) for other in others])

    def texts(self, text: str, others: Sequence[str]) -> Float[Tensor, " n"]:
        return torch.tensor([-float(abs(len(text) - len(other))) for other in others])


def test_the_caption_whose_picture_is_most_alike_wins() -> None:
    choice = choose_caption(
        GREY,
        captioner=Says("a", "a dozen long", "twenty letters and more"),
        generator=Greys(),
        similarity=Brightness(),
        num_candidates=3,
    )
    assert choice.best.text == "a dozen long"
    assert choice.ranking == (1, 2, 0)
    assert [c.score for c in choice.candidates] == [-118.0, -8.0, -102.0]


def test_several_pictures_of_a_caption_count_by_their_mean() -> None:
    choice = choose_caption(
        GREY,
        captioner=Says("a dozen long", "a dozen lon"),
        generator=Greys(),
        similarity=Brightness(),
        num_candidates=2,
        num_pictures=3,
        seed=4,
    )
    assert choice.candidates[0].similarities == (-4.0, -3.0, -2.0)
    assert choice.candidates[0].score == pytest.approx(-3.0)
    assert [len(c.pictures) for c in choice.candidates] == [3, 3]
    one = choose_caption(
        GREY,
        captioner=Says("a dozen long"),
        generator=Greys(),
        similarity=Brightness(),
        num_candidates=1,
        seed=6,
    )
    assert one.best.similarities == choice.candidates[0].similarities[2:]
    assert one.best.pictures[0].tobytes() == choice.candidates[0].pictures[2].tobytes()


def test_captions_that_are_alike_are_painted_once() -> None:
    painter = ScenePainter()
    said = "a small red ring on the left"
    captioner = Says(said, said.upper(), f" {said}.", "a large red ring on the left", said)
    choice = choose_caption(
        GREY,
        captioner=captioner,
        generator=painter,
        similarity=PlainSimilarity(),
        num_candidates=5,
    )
    assert painter.painted == [said, "a large red ring on the left"]
    assert [(c.text, c.times) for c in choice.candidates] == [
        (said, 4),
        ("a large red ring on the left", 1),
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A dog.", "a  dog", True),
        ("a dog!", "a dog", True),
        ("e\u0301tude", "\u00c9tude", True),
        ("a dog", "a dogs", False),
        ("no. 1", "no 1", False),
    ],
)
def test_what_is_alike(one: str, other: str, *, same: bool) -> None:
    assert (normalised(one) == normalised(other)) == same
    assert len(different([one, other])) == (1 if same else 2)


def test_equal_ones_stay_in_their_order() -> None:
    choice = choose_caption(
        GREY,
        captioner=Says("abc", "xyz", "uvw"),
        generator=Greys(),
        similarity=Brightness(),
        num_candidates=3,
    )
    assert choice.ranking == (0, 1, 2)


def test_a_single_candidate_is_chosen() -> None:
    caption = choose_caption(
        GREY,
        captioner=Says("a"),
        generator=Greys(),
        similarity=Brightness(),
        num_candidates=1,
    )
    picture = choose_picture(
        "a", generator=Greys(), captioner=Says("b"), similarity=Brightness(), num_candidates=1
    )
    assert (caption.best.text, picture.best.captions) == ("a", ("b",))


def test_pictures_that_are_equal_are_captioned_once() -> None:
    captioner = Says("abcd")
    choice = choose_picture(
        "abc", generator=Greys(), captioner=captioner, similarity=Brightness(), num_candidates=20
    )
    assert captioner.seen == 10
    assert [(c.seed, c.times) for c in choice.candidates] == [(seed, 2) for seed in range(10)]
    assert choice.best.similarities == (-1.0,)


def test_a_score_needs_no_painting() -> None:
    class Length:
        def score(self, image: Image.Image, captions: Sequence[str]) -> Float[Tensor, " n"]:
            return torch.tensor([float(len(caption)) for caption in captions])

    choice = choose_caption_by_score(
        GREY, captioner=Says("a", "long", "mid"), scorer=Length(), num_candidates=3
    )
    assert choice.ranking == (1, 2, 0)
    assert all(c.pictures == () for c in choice.candidates)


def test_what_is_no_number_is_refused() -> None:
    class Nothing(Brightness):
        def images(self, image: Image.Image, others: Sequence[Image.Image]) -> Float[Tensor, " n"]:
            return torch.full((len(others),), torch.nan)

    with pytest.raises(InputError, match="a similarity is infinite or not a number"):
        choose_caption(
            GREY,
            captioner=Says("a"),
            generator=Greys(),
            similarity=Nothing(),
            num_candidates=1,
        )
    with pytest.raises(InputError, match="num_candidates is 0"):
        choose_picture(
            "a", generator=Greys(), captioner=Says("a"), similarity=Brightness(), num_candidates=0
        )


@pytest.mark.parametrize("errors", [0.0, 0.3])
def test_chosen_captions_are_righter_than_the_mean_on_shapes(errors: float) -> None:
    source = ShapesSource(24, size=32, seed=3)
    captioner, truth = KnownCaptioner(source), ShapesJudge()
    chosen, means = [], []
    for index in range(len(source)):
        sample = source[index]
        choice = choose_caption(
            sample.image,
            captioner=captioner,
            generator=ScenePainter(errors),
            similarity=PlainSimilarity(),
            num_candidates=9,
            num_pictures=2,
            seed=index,
        )
        right = [truth.texts(c.text, sample.captions[:1]).item() for c in choice.candidates]
        chosen.append(right[choice.ranking[0]])
        means.append(sum(right) / len(right))
    # Of nine, three say all rightly, three half of a thing and three nothing of it.
    assert np.mean(means) < 0.65
    assert np.mean(chosen) > (0.95 if errors == 0 else 0.85)


def test_chosen_pictures_are_righter_than_the_mean_on_shapes() -> None:
    source = ShapesSource(24, size=32, seed=3)
    truth, chosen, means = ShapesJudge(), [], []
    for index in range(len(source)):
        sample = source[index]
        choice = choose_picture(
            sample.captions[0],
            generator=ScenePainter(0.6),
            captioner=ErringCaptioner(0.1),
            similarity=PlainSimilarity(),
            num_candidates=6,
            seed=index,
        )
        right = truth.images(sample.image, [c.image for c in choice.candidates])
        chosen.append(right[choice.ranking[0]].item())
        means.append(right.mean().item())
    assert np.mean(means) < 0.8
    assert np.mean(chosen) > np.mean(means) + 0.1


def test_the_seed_decides_all() -> None:
    source = ShapesSource(2, size=32, seed=3)
    captioner = KnownCaptioner(source)

    def scores(seed: int) -> list[tuple[str, float]]:
        choice = choose_caption(
            source[0].image,
            captioner=captioner,
            generator=ScenePainter(0.3),
            similarity=PlainSimilarity(),
            num_candidates=6,
            seed=seed,
        )
        return [(c.text, c.score) for c in choice.candidates]

    assert scores(5) == scores(5)
    assert scores(5) != scores(6)
