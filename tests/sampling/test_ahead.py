"""Sampling ahead gives the pictures that sampling slot by slot gives, in fewer steps."""

import pytest
import torch
from torch import Tensor

from dalle.models.dalle import Dalle, DalleConfig
from dalle.sampling import ahead, fixed_step
from dalle.sampling.ahead import AheadSteps, pays
from dalle.sampling.decode import Sampled, sample_codes
from dalle.sampling.filters import Sampling, noise_table
from dalle.sampling.fixed_step import FixedStep, FixedSteps
from dalle.sampling.launches import LaunchShape
from tests.fakes import fill_with_noise

ROWS, COLS, IMAGE = 5, 9, 45
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.0),
    Sampling(temperature=0.7, top_k=5, guidance=2.0),
    Sampling(top_p=0.8),
]


def build(std: float = 0.4) -> Dalle:
    """Every pattern, the convolution with more kept than it reads."""
    torch.manual_seed(0)
    config = DalleConfig(
        text_vocab=11, image_vocab=64, text_slots=5, rows=ROWS, cols=COLS, depth=4, width=16,
        heads=2, patterns=("row", "column", "conv", "full"), conv_kernel=3,
    )  # fmt: skip
    model = Dalle(config).eval()
    fill_with_noise(model, std=std)
    return model


@pytest.fixture(scope="module")
def model() -> Dalle:
    return build()


def texts(groups: int) -> Tensor:
    found = torch.randint(0, 11, (groups, 5), generator=torch.Generator().manual_seed(1))
    found[:, 0] = 11
    return found


def sampled(model: Dalle, prompt_of: list[int], sampling: Sampling, keep: int = 0) -> Sampled:
    given = torch.randint(0, 64, (ROWS, COLS), generator=torch.Generator().manual_seed(2))
    kept = torch.zeros(ROWS, COLS, dtype=torch.bool)
    kept.view(-1)[:keep] = True
    kept[3, 4:7] = keep > 0
    return sample_codes(
        model,
        texts(2),
        prompt_of=prompt_of,
        seeds=[7 + i for i in range(len(prompt_of))],
        sampling=sampling,
        given=given if keep else None,
        keep=kept if keep else None,
    )


@pytest.mark.parametrize(("prompt_of", "keep"), [([0], 0), ([0, 0], 12), ([0, 1], IMAGE - 1)])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_pictures_are_the_same(
    model: Dalle,
    sampling: Sampling,
    prompt_of: list[int],
    keep: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "MOST_ROWS", 4)
    plays = 0
    real = AheadSteps.play

    def play(step: AheadSteps) -> int:
        nonlocal plays
        plays += 1
        return real(step)

    monkeypatch.setattr(AheadSteps, "play", play)
    found = sampled(model, prompt_of, sampling, keep)
    assert plays > 0
    monkeypatch.setattr(fixed_step, "pays", lambda model, rows: False)
    expected = sampled(model, prompt_of, sampling, keep)
    assert torch.equal(found.codes, expected.codes)
    assert torch.allclose(found.log_prob, expected.log_prob, rtol=0, atol=1e-4)


def test_logits_of_a_slot_are_those_of_one_step(model: Dalle) -> None:
    """Whatever was guessed before: what wrong guesses left is written over."""
    prompts, codes = texts(1), torch.randint(0, 64, (1, IMAGE))
    with torch.inference_mode():
        cache = model.new_cache_of_all_slots(prompts=1, samples=1)
        model.prefill(prompts, codes[:, :0], cache)
        expected = model(prompts, codes).image[0]
        inputs = torch.cat([codes.new_full((1, 1), model.start_of_image), codes[:, :-1]], dim=1)
        for first in range(0, IMAGE - 8):
            slots = torch.arange(first, first + 8).unsqueeze(0)
            wrong = (inputs[:, slots[0]] + 1) % 64
            wrong[:, 0] = inputs[:, first]
            found = model.step_ahead(wrong, slots, cache)
            assert torch.allclose(found[0, 0], expected[first], atol=1e-5)
        found = model.step_ahead(inputs[:, -8:], torch.arange(IMAGE - 8, IMAGE)[None], cache)
        assert torch.allclose(found[0], expected[-8:], atol=1e-5)


def test_a_sure_model_takes_far_fewer_steps_than_slots() -> None:
    model = build(std=0.02)  # tokens hardly depend on the ones before them
    steps = FixedSteps(record=False).get(model, texts(1), LaunchShape(1, 1), Sampling())
    assert isinstance(steps, AheadSteps)
    begin(steps)
    plays, known = 0, 0
    while known < IMAGE:
        known += steps.play()
        plays += 1
    assert known == IMAGE and plays < IMAGE / 3


def test_one_that_is_not_sure_goes_on_slot_by_slot_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ahead, "PLAYS", 3)
    monkeypatch.setattr(ahead, "REST", 10)
    monkeypatch.setattr(ahead, "WORTH", 100.0)
    model = build()
    steps = AheadSteps(model, LaunchShape(1, 1), Sampling(), nulls=0)
    slow = FixedStep(model, LaunchShape(1, 1), Sampling(), nulls=0, record=False)
    begin(steps)
    begin(slow)
    widths, known = [], 0
    while known < IMAGE:
        widths.append(steps.width)
        went_on = steps.play()
        known += went_on
        assert went_on == 1 or widths[-1] == ahead.WIDTH
    assert widths[:16] == 3 * [ahead.WIDTH] + 10 * [1] + 3 * [ahead.WIDTH]
    for _ in range(IMAGE):
        slow.play()
    assert torch.equal(steps.codes, slow.codes)
    begin(steps)
    assert steps.width == ahead.WIDTH  # another picture, another chance


def begin(step: AheadSteps | FixedStep) -> None:
    with torch.inference_mode():
        step.begin(
            texts(1),
            noise=noise_table([5], IMAGE),
            given=torch.zeros(IMAGE, dtype=torch.long),
            keep=torch.zeros(IMAGE, dtype=torch.bool),
        )


def test_it_is_taken_where_it_pays(model: Dalle) -> None:
    assert pays(model, 1) and pays(model, 2) and not pays(model, 3)
    assert not pays(build().bfloat16(), 1)
    one = LaunchShape(1, 1)
    steps = FixedSteps(record=False)
    assert isinstance(steps.get(model, texts(1), one, Sampling(guidance=2.0)), AheadSteps)
    two = LaunchShape(1, 2)
    assert isinstance(steps.get(model, texts(1), two, Sampling(guidance=2.0)), FixedStep)
