"""The arithmetic between a CLIP's vectors and conditions."""

import math

import pytest
import torch
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.models.joint_condition import JointCondition, slerp


def condition(size, *, xi=0.0, mean_image=None, mean_text=None):
    return JointCondition(
        clip="somewhere",
        fingerprint="f",
        vector_size=size,
        xi=xi,
        mean_image=() if mean_image is None else tuple(mean_image.tolist()),
        mean_text=() if mean_text is None else tuple(mean_text.tolist()),
    )


def random_units(count, size, seed=0, around=None):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, size, generator=generator)
    return F.normalize(vectors if around is None else vectors + around, dim=-1)


@pytest.mark.parametrize("xi", [0.0, 1.0, 2.0, 3.0])
def test_the_cosine_after_noise_is_that_of_lafite(xi):
    units = random_units(500, 512)
    torch.manual_seed(1)
    noisy = condition(512, xi=xi).noisy(units)
    cosines = (noisy * units).sum(dim=-1)
    assert cosines.mean().item() == pytest.approx(1 / math.sqrt(1 + xi**2), abs=0.005)
    assert cosines.std().item() < 0.05
    torch.testing.assert_close(noisy.norm(dim=-1), torch.ones(500))
    assert torch.equal(noisy, units) == (xi == 0)


def test_noise_is_that_of_the_seed():
    units = random_units(4, 16)
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(condition(16, xi=1.0).noisy(units))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_each_side_loses_its_own_mean():
    images = random_units(300, 32, seed=0, around=torch.full((32,), 2.0))
    texts = random_units(300, 32, seed=1, around=torch.full((32,), -2.0))
    recipe = condition(32, mean_image=images.mean(dim=0), mean_text=texts.mean(dim=0))
    assert (images.mean(dim=0) - texts.mean(dim=0)).norm() > 1.5
    for centred, raw in ((recipe.of_images(images), images), (recipe.of_texts(texts), texts)):
        assert centred.mean(dim=0).norm() < 0.1
        torch.testing.assert_close(centred.norm(dim=-1), torch.ones(300))
        expected = F.normalize(raw - raw.mean(dim=0), dim=-1)
        torch.testing.assert_close(centred, expected, atol=1e-6, rtol=1e-5)


def test_without_means_both_sides_are_only_brought_to_unit_length():
    vectors = random_units(3, 8) * torch.tensor([[0.1], [1.0], [20.0]])
    recipe = condition(8)
    for made in (recipe.of_images(vectors), recipe.of_texts(vectors)):
        torch.testing.assert_close(made, random_units(3, 8))


def test_slerp_begins_and_ends_at_the_prompts_and_stays_on_the_sphere():
    start, end = random_units(2, 24)
    shares = torch.linspace(0, 1, 7)
    way = slerp(start, end, shares)
    torch.testing.assert_close(way[0], start)
    torch.testing.assert_close(way[-1], end)
    torch.testing.assert_close(way.norm(dim=-1), torch.ones(7))
    steps = torch.arccos((way[1:] * way[:-1]).sum(dim=-1).clamp(-1, 1))
    torch.testing.assert_close(steps, steps[:1].expand(6), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(slerp(start, start, shares), start.expand(7, -1))
    with pytest.raises(ConfigError, match="opposite"):
        slerp(start, -start, shares)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xi": -1.0}, "xi is -1"),
        ({"xi": math.nan}, "xi is nan"),
        ({"mean_image": torch.zeros(4)}, "mean_text 0; expected 4"),
        ({"mean_image": torch.zeros(3), "mean_text": torch.zeros(3)}, "expected 4"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        condition(4, **changes)
