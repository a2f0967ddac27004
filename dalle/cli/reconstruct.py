"""`dalle reconstruct image|text`: the caption that reproduces a picture, the picture of a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dalle.cli import plain
from dalle.cli.drawing import codes_bar
from dalle.cli.round_trip_parts import (
    By,
    TripSettings,
    caption_chooser,
    load_pipeline,
    picture_chooser,
    recorded,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructImageCommand:
    """Caption a picture many times, paint the captions, and take the one that comes out most alike.

    dalle reconstruct image bird.jpg --model runs/birds --captioner models/blip
    """

    picture: Annotated[Path, tyro.conf.Positional]
    """A JPEG, PNG, WebP or GIF."""
    trip: TripSettings
    by: By = "similarity"
    """log_prob: by the model's own ln p(picture | caption), without painting anything."""
    out: Path = Path("reconstruction")
    """Folder for the report; it must not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructTextCommand:
    """Paint a text many times, caption the pictures, and take the one that is told most alike.

    dalle reconstruct text "a red bird" --model runs/birds --captioner models/blip
    """

    text: Annotated[str, tyro.conf.Positional]
    trip: TripSettings
    out: Path = Path("reconstruction")
    """Folder for the report; it must not exist."""


def reconstruct_image(command: ReconstructImageCommand) -> None:
    """Choose a caption, save the report, and print the candidates."""
    from dalle.picture_files import open_image
    from dalle.systems.round_trip.report import check_free, save_caption_choice

    trip, out = command.trip, command.out.expanduser()
    check_free(out)
    image = open_image(command.picture.expanduser())
    pipeline = load_pipeline(trip)
    pictures = 0 if command.by == "log_prob" else trip.candidates * trip.per_candidate
    with codes_bar(pictures, pipeline) as bar:
        choose = caption_chooser(trip, pipeline, by=command.by, progress=bar.update)
        choice = choose(image, trip.seed)
    settings = recorded(trip, pipeline, by=command.by, picture=str(command.picture))
    save_caption_choice(out, image, choice, settings=settings)
    for number in choice.ranking:
        candidate = choice.candidates[number]
        print(plain(f"{candidate.score:9.4f}  {candidate.text}"))
    print(f"all candidates and scores: {out}")


def reconstruct_text(command: ReconstructTextCommand) -> None:
    """Choose a picture, save the report, and print the candidates."""
    from dalle.sampling.prompts import without_surrogates
    from dalle.systems.round_trip.report import check_free, save_picture_choice

    trip, out = command.trip, command.out.expanduser()
    check_free(out)
    text = without_surrogates(command.text)
    pipeline = load_pipeline(trip)
    with codes_bar(trip.candidates, pipeline) as bar:
        choice = picture_chooser(trip, pipeline, progress=bar.update)(text, trip.seed)
    save_picture_choice(out, text, choice, settings=recorded(trip, pipeline))
    for number in choice.ranking:
        candidate = choice.candidates[number]
        told = " | ".join(candidate.captions)
        print(plain(f"{candidate.score:9.4f}  seed {candidate.seed}: {told}"))
    print(f"all candidates and scores: {out}")
