"""The built-in pictures: what they show, what is held out, how they are said and drawn."""

from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest

from dalle.data.shapes import (
    COLOURS,
    HELD_OUT,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    ShapesSource,
    Thing,
    all_captions,
    captions,
    draw,
    parse_caption,
    plain_caption,
    random_scene,
)
from dalle.data.shapes.draw import RADIUS, RADIUS_JITTER, cover, place
from dalle.data.shapes.scene import Shape
from dalle.errors import ConfigError, InputError

RED_STAR = Thing(shape="star", colour="red", size="small")
BLUE_RING = Thing(shape="ring", colour="blue", size="large")


def scenes_of_every_kind() -> list[Scene]:
    """Each position and relation, with each size, shape and colour somewhere."""
    random = Random(0)

    def thing(index: int) -> Thing:
        return Thing(
            shape=SHAPES[index % 6], colour=random.choice(COLOURS), size=SIZES[index // 6 % 2]
        )

    ones = [Scene(things=(thing(i),), position=POSITIONS[i % 9]) for i in range(36)]
    twos = [
        Scene(things=(thing(i), thing(i // 4 + 1)), relation=RELATIONS[i % 4]) for i in range(48)
    ]
    return ones + twos


def test_one_colour_of_each_shape_is_held_out() -> None:
    assert sorted(shape for shape, _ in HELD_OUT) == sorted(SHAPES)
    assert len({colour for _, colour in HELD_OUT}) == 6


def test_no_training_picture_shows_a_held_out_pair() -> None:
    source = ShapesSource(10_000, seed=3)
    shown = {
        (thing.shape, thing.colour) for i in range(len(source)) for thing in source.scene(i).things
    }
    assert shown == set(product(SHAPES, COLOURS)) - HELD_OUT


def test_every_held_out_picture_shows_exactly_one_held_out_thing() -> None:
    source = ShapesSource(2000, held_out=True)
    scenes = [source.scene(i) for i in range(len(source))]
    assert all(sum(thing.held_out for thing in scene.things) == 1 for scene in scenes)
    pairs = {(t.shape, t.colour) for scene in scenes for t in scene.things if t.held_out}
    assert pairs == HELD_OUT
    firsts = [s.things[0].held_out for s in scenes if s.relation is not None]
    assert 0.4 < np.mean(firsts) < 0.6


@pytest.mark.parametrize("held_out", [False, True])
def test_everything_occurs(held_out: bool) -> None:
    source = ShapesSource(3000, held_out=held_out, pairs=0.5)
    scenes = [source.scene(i) for i in range(len(source))]
    assert {s.position for s in scenes} == {*POSITIONS, None}
    assert {s.relation for s in scenes} == {*RELATIONS, None}
    assert {t.size for s in scenes for t in s.things} == set(SIZES)
    assert 0.45 < np.mean([s.relation is not None for s in scenes]) < 0.55
    assert all(len(set(s.things)) == len(s.things) for s in scenes)


@pytest.mark.parametrize("pairs", [0.0, 1.0])
def test_share_of_pictures_with_two_things(pairs: float) -> None:
    source = ShapesSource(50, pairs=pairs)
    assert {len(source.scene(i).things) for i in range(50)} == {1 + int(pairs)}


def test_captions_say_their_scene_and_nothing_else() -> None:
    for scene in scenes_of_every_kind():
        said = all_captions(scene)
        assert len(said) == len(set(said)) >= 16
        assert {parse_caption(text).canonical for text in said} == {scene.canonical}
        assert plain_caption(scene) in said
        assert set(captions(scene, Random(1), num=50)) <= set(said)


def test_random_captions_reach_every_way_to_say_a_scene() -> None:
    scene = Scene(things=(RED_STAR, BLUE_RING), relation="above")
    assert set(captions(scene, Random(0), num=3000)) == set(all_captions(scene))


def test_captions_are_short_plain_lower_case() -> None:
    for scene in scenes_of_every_kind():
        for text in all_captions(scene):
            assert len(text.split()) <= 15
            assert text.isascii() and text == text.lower()


def test_captions_read_like_english() -> None:
    assert plain_caption(Scene(things=(RED_STAR,), position="top left")) == (
        "a small red star at the top left"
    )
    above = Scene(things=(BLUE_RING, RED_STAR), relation="above")
    assert "the picture shows a tiny red star under a big blue ring" in all_captions(above)


def test_a_caption_is_parsed_in_its_own_order_in_any_case() -> None:
    scene = parse_caption("  There is a BIG blue ring\tto the right of a tiny red star ")
    assert scene == Scene(things=(BLUE_RING, RED_STAR), relation="right of")


@pytest.mark.parametrize(
    "text",
    ["", "a red star", "a small pink star in the middle", "a small red star in the middle " * 2],
)
def test_other_phrasing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not phrased"):
        parse_caption(text)


def test_turned_and_canonical() -> None:
    scene = Scene(things=(RED_STAR, BLUE_RING), relation="below")
    assert scene.turned == Scene(things=(BLUE_RING, RED_STAR), relation="above")
    assert scene.canonical == scene.turned == scene.turned.canonical
    assert scene.turned.turned == scene


@pytest.mark.parametrize(
    "fields",
    [
        {"things": ()},
        {"things": (RED_STAR,)},
        {"things": (RED_STAR,), "position": "top", "relation": "above"},
        {"things": (RED_STAR, BLUE_RING)},
        {"things": (RED_STAR, BLUE_RING), "position": "top"},
        {"things": (RED_STAR,) * 3, "relation": "above"},
    ],
)
def test_impossible_scenes_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a scene"):
        Scene(**fields)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    many, few = ShapesSource(1000, seed=5), ShapesSource(8, seed=5)
    backwards = {i: many[i] for i in reversed(range(8))}
    for i in range(8):
        assert few[i].captions == backwards[i].captions
        assert few[i].key == f"shapes/{i}"
        assert few[i].image.tobytes() == backwards[i].image.tobytes()
        assert all(parse_caption(c).canonical == few.scene(i).canonical for c in few[i].captions)
    assert few[-1].captions == few[7].captions
    other = ShapesSource(8, seed=6)
    assert [other[i].captions for i in range(8)] != [few[i].captions for i in range(8)]


def test_a_sample_says_and_shows_the_same_at_every_size() -> None:
    small, large = ShapesSource(20, size=32), ShapesSource(20, size=96)
    for i in range(20):
        assert small[i].captions == large[i].captions
        reduced = np.asarray(large[i].image.reduce(3), dtype=float)
        assert abs(reduced - np.asarray(small[i].image)).mean() < 1.5


def test_a_picture_depends_on_the_scene_and_the_jitter_alone() -> None:
    scene = Scene(things=(RED_STAR, BLUE_RING), relation="left of")
    assert (draw(scene, Random(1), size=48) == draw(scene, Random(1), size=48)).all()
    assert (draw(scene, Random(1), size=48) != draw(scene, Random(2), size=48)).any()


@pytest.mark.parametrize("size", [32, 33, 48, 64])
def test_large_things_never_touch_and_stay_inside(size: int) -> None:
    random = Random(size)
    for _ in range(300):
        scene = random_scene(random, held_out=False, num_things=2)
        things = tuple(Thing(shape=t.shape, colour=t.colour, size="large") for t in scene.things)
        scene = Scene(things=things, relation=scene.relation)
        white = (draw(scene, random, size=size) == 255).all(axis=-1)
        gaps = white.all(axis=0 if scene.relation in ("left of", "right of") else 1)
        assert gaps[size // 2 - 1 : size // 2 + 1].any()
        for placed in place(scene, random):
            assert placed.radius <= min(placed.row, placed.col, 1 - placed.row, 1 - placed.col)


def test_sizes_are_apart() -> None:
    assert RADIUS["small"] * (1 + RADIUS_JITTER) * 1.3 < RADIUS["large"] * (1 - RADIUS_JITTER)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi * 0.95**2),
        ("square", 4 * 0.82**2),
        ("triangle", 1.7),
        ("ring", np.pi * (1 - 0.52**2)),
        ("cross", 4 * (2 * 0.3 - 0.3**2)),
        ("star", 10 * 0.5 * 1.05 * (0.45 * 1.05) * np.sin(np.pi / 5)),
    ],
)
@pytest.mark.parametrize("radius", [4.2, 13.0])
def test_area_of_the_shapes(shape: Shape, area: float, radius: float) -> None:
    rows = np.arange(-15, 16, dtype=np.float32) + 0.3
    mask = cover(shape, rows, rows[1:-1] + 0.15, radius=radius)
    assert mask.shape == (31, 29)
    assert mask.sum() == pytest.approx(area * radius**2, rel=0.04)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_samples is 0"):
        ShapesSource(0)
    with pytest.raises(ConfigError, match="size is 31"):
        ShapesSource(1, size=31)
    with pytest.raises(ConfigError, match="pairs is 2"):
        ShapesSource(1, pairs=2.0)
    with pytest.raises(IndexError):
        ShapesSource(3)[3]
    with pytest.raises(InputError, match="num_things is 3"):
        random_scene(Random(0), held_out=False, num_things=3)
    with pytest.raises(InputError, match="16 pixels"):
        draw(ShapesSource(1).scene(0), Random(0), size=16)
