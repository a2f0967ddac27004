"""The round trip on the built-in pictures: how right is what is chosen, beside the mean and chance.

    python benchmarks/round_trip.py MODEL OUT [--pictures 60] [--per-candidate 1] [--held-out]
        [--writer MODEL_OF_BOTH_ORDERS]

Captions of pictures: three right ones, three of which half of what they say of a thing is wrong,
and three that are wrong. MODEL paints them and its CLIP compares the pictures; and its ln p(picture
| caption) weighs them without painting. Pictures of texts: MODEL paints nine at a high temperature,
a captioner that errs in a part of what it says captions them, and the same CLIP compares the texts.
What is chosen is judged by what captions say, and by the reader of pictures, of which the choice
knows nothing. With --writer that model writes all captions. A stopped run goes on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

import dalle
from dalle.checkpoint.manifest import write_json
from dalle.config import to_json
from dalle.data.shapes import (
    COLOURS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    ShapesSource,
    Thing,
    caption,
    judge,
    parse_caption,
    perfect_reading,
    plain_caption,
    read_scene,
)
from dalle.data.shapes.reader import Reading
from dalle.errors import InputError
from dalle.sampling.request import Request
from dalle.systems.round_trip.choose import (
    CaptionCandidate,
    Choice,
    PictureCandidate,
    choose_caption,
    choose_caption_by_score,
    choose_picture,
)
from dalle.systems.round_trip.curve import curves
from dalle.systems.round_trip.evaluate import (
    Take,
    caption_trip,
    measures,
    picture_trip,
    table,
    trips,
)
from dalle.systems.round_trip.ours import PipelineCaptioner, PipelineGenerator, PipelineScorer
from dalle.systems.round_trip.parts import Captioner
from dalle.systems.round_trip.similarity import similarity_of
from dalle.systems.round_trip.trips import append, begin

ATTRIBUTES = ("shape", "colour", "size", "place")
OF_EACH = 3
"""Captions of each quality."""


def told_wrong(scene: Scene, random: Random, *, how_many: int) -> Scene:
    """The scene with so many attributes of its first thing, or its place, replaced by others."""
    wrong = random.sample(ATTRIBUTES, how_many)
    first, *rest = scene.things

    def other(values: Sequence[Any], value: Any) -> Any:
        return random.choice([v for v in values if v != value])

    thing = Thing(
        shape=other(SHAPES, first.shape) if "shape" in wrong else first.shape,
        colour=other(COLOURS, first.colour) if "colour" in wrong else first.colour,
        size=other(SIZES, first.size) if "size" in wrong else first.size,
    )
    if scene.position is not None:
        place = other(POSITIONS, scene.position) if "place" in wrong else scene.position
        return Scene(things=(thing,), position=place)
    relation = other(RELATIONS, scene.relation) if "place" in wrong else scene.relation
    return Scene(things=(thing, *rest), relation=relation)


class KnownCaptioner:
    """Knows the pictures of a source; a third of its captions are right, a third half right."""

    def __init__(self, source: ShapesSource) -> None:
        self.scenes = {source[i].image.tobytes(): source.scene(i) for i in range(len(source))}

    def caption(
        self, images: Sequence[Image.Image], *, num_captions: int, seed: int
    ) -> list[list[str]]:
        """Captions of each picture, of all qualities in turn, in random order."""
        return [self._captions(self.scenes[i.tobytes()], num_captions, seed) for i in images]

    def _captions(self, scene: Scene, num: int, seed: int) -> list[str]:
        random = Random(f"known {seed} {plain_caption(scene)}")
        wrong = (0, len(ATTRIBUTES) // 2, len(ATTRIBUTES))
        said = [
            caption(told_wrong(scene, random, how_many=wrong[i % 3]), random) for i in range(num)
        ]
        random.shuffle(said)
        return said


class ErringCaptioner:
    """Reads pictures, and says each attribute wrongly in a share of the cases."""

    def __init__(self, share: float) -> None:
        self.share = share

    def caption(
        self, images: Sequence[Image.Image], *, num_captions: int, seed: int
    ) -> list[list[str]]:
        """Captions of each picture; "something" of what cannot be read."""
        return [
            [self._told(image, Random(f"erring {seed} {i} {j}")) for j in range(num_captions)]
            for i, image in enumerate(images)
        ]

    def _told(self, image: Image.Image, random: Random) -> str:
        scene = scene_read(read_scene(image))
        if scene is None:
            return "something"
        wrong = sum(random.random() < self.share for _ in ATTRIBUTES)
        return plain_caption(told_wrong(scene, random, how_many=wrong))


class ShapesJudge:
    """A `Similarity`: the share of what a picture or a caption shows that is right."""

    def images(self, image: Image.Image, others: Sequence[Image.Image]) -> Float[Tensor, " n"]:
        """Of pictures, by the reader, against a drawn one."""
        scene = scene_read(read_scene(image))
        assert scene is not None, "the given picture is one of the drawn ones"
        return torch.tensor([_share(scene, read_scene(other)) for other in others])

    def texts(self, text: str, others: Sequence[str]) -> Float[Tensor, " n"]:
        """Of a caption, against right ones."""
        try:
            reading = perfect_reading(parse_caption(text))
        except InputError:  # not phrased as captions are
            return torch.zeros(len(others))
        return torch.tensor([_share(parse_caption(other), reading) for other in others])


def scene_read(reading: Reading) -> Scene | None:
    """What a picture shows; None where the reader is not sure."""
    things = []
    for seen in reading.things:
        if seen.shape is None or seen.colour is None or seen.size is None:
            return None
        things.append(Thing(shape=seen.shape, colour=seen.colour, size=seen.size))
    try:
        return Scene(things=tuple(things), position=reading.position, relation=reading.relation)
    except InputError:
        return None


def _share(scene: Scene, reading: Reading) -> float:
    verdict = judge(scene, reading)
    return sum(getattr(verdict, name) for name in ATTRIBUTES) / len(ATTRIBUTES)


def directions(
    model: dalle.Pipeline, source: ShapesSource, flags: argparse.Namespace
) -> dict[str, Take]:
    """What is done with each sample: captions by painting, captions by weighing, pictures."""
    assert model.reranker is not None, "the model needs a CLIP"
    similarity = similarity_of(model.reranker, space="projected")
    of_pictures: Captioner = KnownCaptioner(source)
    of_painted: Captioner = ErringCaptioner(flags.errors)
    if flags.writer is not None:
        writer = dalle.load(flags.writer, device="cpu")
        of_pictures = of_painted = PipelineCaptioner(writer, top_p=None)
    number, each = 3 * OF_EACH, flags.per_candidate
    painter = PipelineGenerator(model, request=Request(launch=number * each))
    hot = PipelineGenerator(
        model, request=Request(temperature=flags.hot, guidance=1.0, launch=number)
    )

    def chosen_caption(image: Image.Image, seed: int) -> Choice[CaptionCandidate]:
        return choose_caption(
            image,
            captioner=of_pictures,
            generator=painter,
            similarity=similarity,
            num_candidates=number,
            num_pictures=each,
            seed=seed,
        )

    def weighed_caption(image: Image.Image, seed: int) -> Choice[CaptionCandidate]:
        scorer = PipelineScorer(model)
        return choose_caption_by_score(
            image, captioner=of_pictures, scorer=scorer, num_candidates=number, seed=seed
        )

    def chosen_picture(text: str, seed: int) -> Choice[PictureCandidate]:
        return choose_picture(
            text,
            generator=hot,
            captioner=of_painted,
            similarity=similarity,
            num_candidates=number,
            num_captions=each,
            seed=seed,
        )

    truth = ShapesJudge()
    return {
        "image": caption_trip(chosen_caption, truth),
        "image-log-prob": caption_trip(weighed_caption, truth),
        "text": picture_trip(chosen_picture, truth),
    }


def main() -> None:
    """Take the pictures through, and print a table of each direction."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--writer", help="a model of both orders, which writes all captions")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--per-candidate", type=int, default=1)
    parser.add_argument("--errors", type=float, default=0.25)
    parser.add_argument("--hot", type=float, default=2.0, help="temperature of the text's pictures")
    parser.add_argument("--held-out", action="store_true")
    flags = parser.parse_args()
    model = dalle.load(flags.model, device="cpu")
    size = model.image_tokenizer.image_size[0]
    source = ShapesSource(flags.pictures, size=size, seed=77, held_out=flags.held_out)
    for task, take in directions(model, source, flags).items():
        out = flags.out / task
        said = {name: str(value) for name, value in vars(flags).items()}
        made = begin(out, {**said, "model_hash": model.origin.model_hash})
        through = {trip.index for trip in made}
        left = [index for index in range(len(source)) if index not in through]
        for trip in trips(source, left, take, seed=0, skipped=print):
            append(out, trip)
            made.append(trip)
        results = measures(made, of_captions=task != "text", seed=0)
        print(f"\n{task}: {len(made)} samples\n{table(results)}")
        write_json(out / "results.json", {one.measure: to_json(one) for one in results})
        curves(results).save(out / "by-rank.png")


if __name__ == "__main__":
    main()
