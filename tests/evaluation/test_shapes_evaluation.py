"""Scores of pictures of shapes, beside chance and shuffled prompts."""

import math
from random import Random

import numpy as np
import pytest
import torch

from dalle.data.shapes import draw, parse_caption, perfect_reading, random_scene
from dalle.errors import InputError
from dalle.evaluation.shapes import (
    ATTRIBUTES,
    GROUPS,
    Prompted,
    at_chance,
    best_of,
    candidate_rates,
    chance,
    evaluate_group,
    prompt_set,
    rates,
    read_all,
    read_captions,
    shuffled,
    table,
    verify_reader,
)


def half_right(prompts: list[Prompted], seed: int) -> list[np.ndarray]:
    """Pictures of 48 pixels: every other one shows something else."""
    random = Random(seed)
    num_things = len(prompts[0].scene.things)
    return [
        draw(
            prompt.scene
            if index % 2
            else random_scene(random, held_out=False, num_things=num_things),
            random,
            size=48,
        )
        for index, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize(("name", "held_out", "num_things"), GROUPS)
def test_prompts_are_of_their_group_and_independent(
    name: str, held_out: bool, num_things: int
) -> None:
    prompts = prompt_set(60, held_out=held_out, num_things=num_things, seed=4)
    assert prompts[:10] == prompt_set(10, held_out=held_out, num_things=num_things, seed=4)
    assert prompts != prompt_set(60, held_out=held_out, num_things=num_things, seed=5)
    for prompt in prompts:
        assert prompt.scene.held_out == held_out and len(prompt.scene.things) == num_things
        assert parse_caption(prompt.caption).canonical == prompt.scene.canonical


@pytest.mark.parametrize(("name", "held_out", "num_things"), GROUPS)
def test_shuffled_pictures_fall_to_chance(name: str, held_out: bool, num_things: int) -> None:
    prompts = prompt_set(200, held_out=held_out, num_things=num_things, seed=0)
    scenes = [prompt.scene for prompt in prompts]
    readings = [perfect_reading(scene) for scene in scenes]
    right, control, level = (
        rates(scenes, readings),
        shuffled(scenes, readings, seed=0),
        chance(scenes),
    )
    assert right.right == dict.fromkeys(ATTRIBUTES, 1.0)
    for attribute in ATTRIBUTES:
        error = max(level.errors[attribute], 1 / level.num)
        assert abs(control.right[attribute] - level.right[attribute]) <= 3 * error
    assert at_chance(control, level)
    assert not at_chance(right, level)


def test_chance_of_one_thing_is_that_of_a_blind_guess() -> None:
    scenes = [p.scene for p in prompt_set(400, held_out=False, num_things=1, seed=1)]
    level = chance(scenes)
    for attribute, guess in (("shape", 1 / 6), ("colour", 1 / 8), ("size", 1 / 2)):
        assert level.right[attribute] == pytest.approx(guess, abs=0.03)
    assert level.right["place"] == pytest.approx(1 / 9, abs=0.03)
    assert level.right["count"] == 1 and level.right["all"] < 0.005


def test_shuffling_leaves_no_prompt_with_its_own_picture() -> None:
    scenes = list(
        dict.fromkeys(p.scene for p in prompt_set(9, held_out=True, num_things=2, seed=0))
    )
    readings = [perfect_reading(scene) for scene in scenes]
    for seed in range(50):
        for num in (2, 3, len(scenes)):
            assert shuffled(scenes[:num], readings[:num], seed=seed).right["all"] == 0


def test_rates_count_and_have_binomial_errors() -> None:
    prompts = prompt_set(40, held_out=False, num_things=2, seed=2)
    scenes = [prompt.scene for prompt in prompts]
    result = rates(scenes, read_all(half_right(prompts, seed=0)))
    assert result.num == 40 and result.right["all"] == 0.5 and result.right["count"] == 1
    assert result.errors["all"] == pytest.approx(math.sqrt(0.5 * 0.5 / 40))


def test_candidates_of_one_prompt_are_not_counted_as_independent() -> None:
    prompts = prompt_set(20, held_out=False, num_things=1, seed=3)
    scenes = [prompt.scene for prompt in prompts]
    readings = read_all(half_right(prompts, seed=1))
    copies = [reading for reading in readings for _ in range(5)]
    one, many = rates(scenes, readings), candidate_rates(scenes, copies)
    assert many.num == 20
    for attribute in ATTRIBUTES:
        assert many.right[attribute] == pytest.approx(one.right[attribute])
        assert many.errors[attribute] == pytest.approx(one.errors[attribute])


def test_best_of_takes_the_highest_score() -> None:
    scenes = [p.scene for p in prompt_set(6, held_out=False, num_things=2, seed=0)]
    readings = [perfect_reading(scene) for scene in scenes]
    scores = np.array([[0.1, 0.3, -2.0], [5.0, 4.0, 4.5]])
    assert best_of(readings, scores) == [readings[1], readings[3]]
    with pytest.raises(InputError, match="5 pictures and 6 scores"):
        best_of(readings[:5], scores)
    with pytest.raises(InputError, match="not a number"):
        best_of(readings, scores * np.nan)


def test_numbers_that_do_not_fit_are_refused() -> None:
    scenes = [p.scene for p in prompt_set(3, held_out=False, num_things=1, seed=0)]
    readings = [perfect_reading(scene) for scene in scenes]
    with pytest.raises(InputError, match="2 pictures for 3 prompts"):
        rates(scenes, readings[:2])
    with pytest.raises(InputError, match="2 pictures for 3 prompts"):
        candidate_rates(scenes, readings[:2])
    for control in (lambda: chance(scenes[:1]), lambda: shuffled(scenes[:1], readings, seed=0)):
        with pytest.raises(InputError, match="at least two"):
            control()


def test_tensors_read_as_arrays_do() -> None:
    prompts = prompt_set(5, held_out=True, num_things=2, seed=0)
    arrays = half_right(prompts, seed=0)
    tensor = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    assert read_all(tensor) == read_all(arrays)


def test_a_group_and_its_table() -> None:
    prompts = prompt_set(12, held_out=False, num_things=1, seed=7)
    wrong, right = half_right(prompts, seed=0), [draw(p.scene, Random(0), size=48) for p in prompts]
    candidates = [picture for pair in zip(wrong, right, strict=True) for picture in pair]
    scores = np.tile([0.0, 1.0], (12, 1))
    result = evaluate_group(
        prompts, name="seen, one thing", one=wrong, candidates=candidates, scores=scores
    )
    assert result.one.right["all"] == 0.5
    assert result.mean.right["all"] == 0.75
    assert result.best.right["all"] == 1.0
    assert result.best_shuffled.right["all"] <= 0.1
    text = table([result])
    assert "seen, one thing" in text and "best of 2" in text and "chance" in text
    row = next(line for line in text.splitlines() if "best of 2" in line)
    assert row.split()[3:] == ["12", *["100.0"] * 6, "0.0"]
    assert all(len(line) <= 100 for line in text.splitlines())


class TestVerifyReader:
    def test_passes_on_drawn_pictures_and_faithful_reconstructions(self) -> None:
        report = verify_reader(48, 200, reconstruct=lambda images: images * 0.98 + 0.01)
        assert report.passed
        assert set(report.drawn) == set(report.reconstructed) == {name for name, *_ in GROUPS}
        assert "100.00 % of drawn" in report.text() and "unclear" in report.text()

    def test_without_a_tokenizer_there_are_no_reconstructions(self) -> None:
        report = verify_reader(32, 40, reconstruct=None)
        assert report.passed and report.reconstructed == {}
        assert "reconstructions" not in report.text()

    def test_fails_on_reconstructions_that_lose_the_colour(self) -> None:
        report = verify_reader(32, 40, reconstruct=lambda images: images.flip(1))
        assert not report.passed
        assert all(group.right["shape"] == 1 for group in report.reconstructed.values())
        assert all(group.right["all"] < 0.8 for group in report.reconstructed.values())

    def test_never_gives_a_tokenizer_more_than_64_pictures(self) -> None:
        given = []

        def reconstruct(images: torch.Tensor) -> torch.Tensor:
            given.append(len(images))
            return images

        verify_reader(32, 280, reconstruct=reconstruct)
        assert max(given) <= 64 and sum(given) == 280


def test_captions_are_read_as_pictures_are() -> None:
    prompts = prompt_set(40, held_out=False, num_things=2, seed=1)
    scenes = [prompt.scene for prompt in prompts]
    right = rates(scenes, read_captions([prompt.caption for prompt in prompts])).right
    assert all(share == 1.0 for share in right.values())
    halves = [p.caption if i % 4 else "a red cat on a mat" for i, p in enumerate(prompts)]
    assert all(share == 0.75 for share in rates(scenes, read_captions(halves)).right.values())
