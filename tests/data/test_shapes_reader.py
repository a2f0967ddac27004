"""The reader of the built-in pictures, and the judging by it."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dalle.data.shapes import (
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    draw,
    judge,
    perfect_reading,
    random_scene,
    read_scene,
)
from dalle.data.shapes.draw import RADIUS, Placed, paint
from dalle.data.shapes.scene import Colour, Shape, Size
from dalle.data.shapes.segment import connected_parts
from dalle.errors import InputError

RED_STAR = Thing(shape="star", colour="red", size="small")
BLUE_RING = Thing(shape="ring", colour="blue", size="large")


Damage = Callable[[Image.Image], Image.Image]


def scenes(num: int, seed: int) -> list[Scene]:
    random = Random(seed)
    return [random_scene(random, held_out=i % 4 > 1, num_things=1 + i % 2) for i in range(num)]


@pytest.mark.parametrize("size", [32, 48, 64])
def test_reads_what_was_drawn(size: int) -> None:
    random = Random(size)
    for scene in scenes(600, seed=size):
        assert read_scene(draw(scene, random, size=size)).scene == scene.canonical


def blurred(picture: Image.Image) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(picture.width / 36))


def coarse(picture: Image.Image) -> Image.Image:
    half = (picture.width // 2, picture.height // 2)
    return picture.resize(half, Image.Resampling.BOX).resize(picture.size)


def noisy(picture: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 20, (*picture.size, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def tinted(picture: Image.Image) -> Image.Image:
    tint = np.array([0.93, 1.0, 0.96]) * np.asarray(picture) * 0.95 + [8, 0, 4]
    return Image.fromarray(tint.astype(np.uint8))


@pytest.mark.parametrize("damage", [blurred, coarse, noisy, tinted])
@pytest.mark.parametrize("size", [48, 64])
def test_reads_damaged_pictures(damage: Damage, size: int) -> None:
    random = Random(1)
    right = [
        read_scene(damage(Image.fromarray(draw(scene, random, size=size)))).scene == scene.canonical
        for scene in scenes(200, seed=1)
    ]
    assert np.mean(right) >= 0.98


def changes(scene: Scene) -> dict[str, Scene]:
    """The scene with one attribute of its last thing, or its place, changed."""
    thing = scene.things[-1]

    def other(thing: Thing) -> Scene:
        return replace(scene, things=(*scene.things[:-1], thing))

    if scene.position is not None:
        moved = replace(scene, position=POSITIONS[(POSITIONS.index(scene.position) + 4) % 9])
    else:
        moved = replace(scene, relation=RELATIONS[(RELATIONS.index(scene.relation) + 2) % 4])
    return {
        "shape": other(replace(thing, shape=SHAPES[(SHAPES.index(thing.shape) + 1) % 6])),
        "colour": other(replace(thing, colour=COLOURS[(COLOURS.index(thing.colour) + 1) % 8])),
        "size": other(replace(thing, size="small" if thing.size == "large" else "large")),
        "place": moved,
    }


def test_changing_one_attribute_changes_the_verdict_on_it_alone() -> None:
    random = Random(2)
    for scene in scenes(60, seed=2):
        if len({t.shape for t in scene.things}) < len(scene.things):
            continue  # two of one shape: the pairing may rightly go the other way
        for name, changed in changes(scene).items():
            verdict = judge(scene, read_scene(draw(changed, random, size=48)))
            wrong = {
                part
                for part in ("count", "shape", "colour", "size", "place")
                if not getattr(verdict, part)
            }
            assert wrong == {name}, (scene, changed)
            assert not verdict.all


@pytest.mark.parametrize("side", [32, 64])
def test_noise_and_blank_pictures_are_unclear(side: int) -> None:
    random = np.random.default_rng(side)
    for _ in range(20):
        assert not read_scene(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).clear
        salt = np.where(random.random((side, side, 1)) < 0.1, 0, 255).repeat(3, axis=2)
        assert not read_scene(salt.astype(np.uint8)).clear
    for shade in (0, 128, 200, 255):
        reading = read_scene(np.full((side, side, 3), shade, np.uint8))
        assert not reading.clear and not reading.things


def put(shape: Shape, colour: Colour, row: float, col: float, radius: float) -> Placed:
    size: Size = "small" if radius < 0.16 else "large"
    return Placed(
        thing=Thing(shape=shape, colour=colour, size=size), row=row, col=col, radius=radius
    )


@pytest.mark.parametrize("size", [32, 64])
class TestUnclear:
    def test_things_that_have_merged(self, size: int) -> None:
        for shape in SHAPES:
            pair = (put(shape, "red", 0.5, 0.36, 0.2), put(shape, "red", 0.5, 0.64, 0.2))
            reading = read_scene(paint(pair, size=size))
            assert reading.count == 1 and reading.things[0].shape is None

    def test_three_things(self, size: int) -> None:
        trio = [put("circle", "red", 0.2, 0.2 + 0.3 * i, 0.1) for i in range(3)]
        reading = read_scene(paint(tuple(trio), size=size))
        assert reading.count == 3 and not reading.clear

    def test_a_thing_of_two_colours(self, size: int) -> None:
        picture = paint((put("square", "red", 0.5, 0.5, 0.2),), size=size)
        other = paint((put("square", "orange", 0.5, 0.5, 0.2),), size=size)
        picture[:, size // 2 :] = other[:, size // 2 :]
        reading = read_scene(picture)
        assert reading.things[0].colour is None and reading.things[0].shape == "square"

    def test_a_thing_of_another_colour(self, size: int) -> None:
        picture = paint((put("square", "black", 0.5, 0.5, 0.2),), size=size)
        pink = np.where(picture < 128, np.array([255, 150, 200]), picture).astype(np.uint8)
        assert read_scene(pink).things[0].colour not in ("red", "black", "blue")

    def test_a_thing_between_small_and_large(self, size: int) -> None:
        middle = (RADIUS["small"] * RADIUS["large"]) ** 0.5
        reading = read_scene(paint((put("circle", "red", 0.5, 0.5, middle),), size=size))
        assert reading.things[0].size is None and reading.things[0].shape == "circle"

    def test_a_thing_between_positions(self, size: int) -> None:
        reading = read_scene(paint((put("circle", "red", 0.5, 0.37, 0.13),), size=size))
        assert reading.position is None and reading.things[0].shape == "circle"

    def test_two_things_on_the_diagonal(self, size: int) -> None:
        pair = (put("circle", "red", 0.3, 0.3, 0.13), put("star", "blue", 0.7, 0.7, 0.13))
        reading = read_scene(paint(pair, size=size))
        assert reading.count == 2 and reading.relation is None

    def test_a_shape_that_is_none_of_ours(self, size: int) -> None:
        picture = np.full((size, size, 3), 255, np.uint8)
        picture[size // 4 : 3 * size // 4, size // 2 : size // 2 + size // 12] = (225, 30, 40)
        assert read_scene(picture).things[0].shape is None

    def test_a_ground_that_is_not_white(self, size: int) -> None:
        picture = draw(Scene(things=(BLUE_RING,), position="top left"), Random(0), size=size)
        assert read_scene(picture // 10 * 9).clear
        assert not read_scene(picture // 2).clear
        mottled = picture.copy()
        mottled[size // 2 : -1 : 2, 1:-1:2] = 180
        assert not read_scene(mottled).clear

    def test_a_speck_is_not_a_thing(self, size: int) -> None:
        scene = Scene(things=(BLUE_RING,), position="top left")
        picture = draw(scene, Random(0), size=size)
        picture[-3, -3] = 0
        assert read_scene(picture).scene == scene


def test_middles_are_found_to_a_fraction_of_a_pixel() -> None:
    for shape in SHAPES:
        seen = read_scene(paint((put(shape, "green", 0.487, 0.513, 0.2),), size=64)).things[0]
        assert abs(seen.row - 0.487) * 64 < 0.35 and abs(seen.col - 0.513) * 64 < 0.35


def test_an_image_reads_as_its_array_does() -> None:
    picture = draw(Scene(things=(RED_STAR,), position="bottom"), Random(0), size=48)
    assert read_scene(Image.fromarray(picture)) == read_scene(picture)


@pytest.mark.parametrize("size", [(64, 48), (16, 16)])
def test_other_forms_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="square ones"):
        read_scene(Image.new("RGB", size))


def test_connected_parts() -> None:
    drawing = ["##..#", "..#.#", "....#", "#.#..", "#.#.#", "###.."]
    mask = np.array([[c == "#" for c in row] for row in drawing])
    parts = connected_parts(mask, np.ones(mask.shape))
    labels = ["".join("." if p < 0 else str(p) for p in row) for row in parts.labels]
    assert labels == ["11..2", "..1.2", "....2", "0.0..", "0.0.3", "000.."]
    assert parts.weights.tolist() == [7, 3, 3, 1]
    assert connected_parts(mask & False, np.ones(mask.shape)).weights.tolist() == []


class TestJudge:
    scene = Scene(things=(RED_STAR, BLUE_RING), relation="right of")

    def test_what_was_asked_for_is_right_however_it_is_told(self) -> None:
        for asked in (self.scene, self.scene.turned):
            for shown in (self.scene, self.scene.turned):
                assert judge(asked, perfect_reading(shown)).all

    def test_things_in_each_others_place_have_only_a_wrong_place(self) -> None:
        swapped = replace(self.scene, things=self.scene.things[::-1])
        verdict = judge(self.scene, perfect_reading(swapped))
        assert verdict.count and verdict.shape and verdict.colour and verdict.size
        assert not verdict.place and not verdict.all

    def test_colours_that_have_changed_places_are_wrong(self) -> None:
        star, ring = self.scene.things
        things = (replace(star, colour="blue"), replace(ring, colour="red"))
        verdict = judge(self.scene, perfect_reading(replace(self.scene, things=things)))
        assert not verdict.colour
        assert verdict.count and verdict.shape and verdict.size and verdict.place

    def test_a_missing_and_a_surplus_thing(self) -> None:
        one = Scene(things=(BLUE_RING,), position="left")
        missing = judge(self.scene, perfect_reading(one))
        assert not (missing.count or missing.shape or missing.colour or missing.size)
        surplus = judge(one, perfect_reading(self.scene))
        assert surplus.shape and surplus.colour and surplus.size
        assert not surplus.count and not surplus.place and not surplus.all

    def test_where_nothing_agrees_things_are_taken_in_their_order(self) -> None:
        reading = perfect_reading(self.scene)
        vague = tuple(replace(t, shape=None, colour=None, size=None) for t in reading.things)
        verdict = judge(self.scene, replace(reading, things=vague))
        assert verdict.place and verdict.count
        assert not verdict.shape and not verdict.colour and not verdict.size

    def test_what_is_unclear_is_wrong(self) -> None:
        reading = perfect_reading(self.scene)
        nothing = replace(reading, count=None, things=(), relation=None)
        assert not any(
            getattr(judge(self.scene, nothing), name)
            for name in ("count", "shape", "colour", "size", "place", "all")
        )
        blurred_shape = replace(reading.things[0], shape=None)
        verdict = judge(self.scene, replace(reading, things=(blurred_shape, reading.things[1])))
        assert not verdict.shape and verdict.colour and verdict.place
