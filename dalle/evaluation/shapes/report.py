"""The table of results: seen and held-out combinations, one and two things, with controls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from jaxtyping import Float
from numpy import ndarray

from dalle.data.shapes.scene import (
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    random_scene,
)
from dalle.data.shapes.text import caption
from dalle.evaluation.shapes.rates import (
    ATTRIBUTES,
    Pictures,
    Rates,
    best_of,
    candidate_rates,
    chance,
    rates,
    read_all,
    shuffled,
)

GROUPS = (
    ("seen, one thing", False, 1),
    ("seen, two things", False, 2),
    ("held out, one thing", True, 1),
    ("held out, two things", True, 2),
)
"""The four kinds of prompts: name, held_out, num_things."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompted:
    """A prompt and what it asks for."""

    scene: Scene
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupResult:
    """What was measured on one set of prompts."""

    name: str
    chance: Rates
    one: Rates
    """One sample per prompt."""
    one_shuffled: Rates
    num_candidates: int
    mean: Rates
    """Of all candidates."""
    best: Rates
    """The candidate of each prompt with the highest score."""
    best_shuffled: Rates


def prompt_set(num: int, *, held_out: bool, num_things: int, seed: int) -> list[Prompted]:
    """Prompts with what they ask for; prompt i depends on the settings and on i alone.

    Args:
        num: how many.
        held_out: whether one thing of each has a shape and colour never seen together in training.
        num_things: 1 or 2.
        seed: another seed gives other prompts.
    """
    prompts = []
    for index in range(num):
        random = Random(f"prompts {seed} {held_out} {num_things} {index}")
        scene = random_scene(random, held_out=held_out, num_things=num_things)
        prompts.append(Prompted(scene=scene, caption=caption(scene, random)))
    return prompts


def evaluate_group(
    prompts: Sequence[Prompted],
    *,
    name: str,
    one: Pictures,
    candidates: Pictures,
    scores: Float[ndarray, "prompts candidates"],
    seed: int = 0,
) -> GroupResult:
    """Everything that is reported of one set of prompts.

    Args:
        prompts: of one kind: `chance` is that of guessing within the set.
        name: how the table calls it.
        one: one picture per prompt.
        candidates: N pictures of the first prompt, then N of the second, and so on.
        scores: how well each candidate suits its prompt; higher is better.
        seed: of the shuffling.
    """
    scenes = [prompt.scene for prompt in prompts]
    read_one, read_many = read_all(one), read_all(candidates)
    read_best = best_of(read_many, scores)
    return GroupResult(
        name=name,
        chance=chance(scenes),
        one=rates(scenes, read_one),
        one_shuffled=shuffled(scenes, read_one, seed=seed),
        num_candidates=scores.shape[1],
        mean=candidate_rates(scenes, read_many),
        best=rates(scenes, read_best),
        best_shuffled=shuffled(scenes, read_best, seed=seed),
    )


def table(results: Iterable[GroupResult]) -> str:
    """Plain text: per set of prompts each rate in per cent, with controls and chance below it."""
    head = f"{'':24}{'prompts':>8}" + "".join(f"{name:>8}" for name in ATTRIBUTES) + "   s.e."
    lines = [head]
    for result in results:
        lines += ["", result.name]
        for name, row in (
            ("one sample", result.one),
            ("  prompts shuffled", result.one_shuffled),
            (f"mean of {result.num_candidates}", result.mean),
            (f"best of {result.num_candidates}", result.best),
            ("  prompts shuffled", result.best_shuffled),
            ("chance", result.chance),
        ):
            cells = "".join(f"{100 * row.right[attribute]:8.1f}" for attribute in ATTRIBUTES)
            lines.append(f"  {name:22}{row.num:8}{cells}{100 * row.errors['all']:7.1f}")
    blind = "  ".join(
        f"{name} {100 / len(choices):.1f}"
        for name, choices in (
            ("shape", SHAPES),
            ("colour", COLOURS),
            ("size", SIZES),
            ("position", POSITIONS),
            ("relation", RELATIONS),
        )
    )
    lines += ["", f"blind guess, of each thing: {blind}"]
    return "\n".join(lines)
