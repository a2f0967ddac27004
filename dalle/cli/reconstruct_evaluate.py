"""`dalle reconstruct evaluate DATA`: whether what is chosen is better, on a captioned data set."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dalle.cli.round_trip_parts import (
    By,
    TripSettings,
    caption_chooser,
    load_pipeline,
    picture_chooser,
    recorded,
)
from dalle.errors import ConfigError, DataError

if TYPE_CHECKING:
    from dalle.protocols import Source
    from dalle.sampling.pipeline import Pipeline
    from dalle.systems.round_trip.evaluate import Take
    from dalle.systems.round_trip.trips import Trip


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructEvaluateCommand:
    """Choose for every sample of a captioned data set, and judge the candidates at each rank.

    A command that was stopped goes on when it is given again.
    """

    data: Annotated[str, tyro.conf.Positional]
    """What --data of the training commands takes; captions_val2017.json of COCO, say."""
    trip: TripSettings
    task: Literal["image", "text"] = "image"
    """image: choose captions of pictures. text: choose pictures of the first captions."""
    by: By = "similarity"
    """Of captions: log_prob is the model's own ln p(picture | caption), without painting."""
    judge: str | None = None
    """A CLIP that compares captions with the references, or pictures with the sample's own; it
    should not be the one that chooses. Captions are also judged by CIDEr-D and ROUGE-L."""
    most: int | None = None
    """Take so many samples only, chosen at random."""
    out: Path = Path("round-trips")
    """Folder for the candidates of each sample, the table and the curves."""


def run(command: ReconstructEvaluateCommand) -> None:
    """Take the samples through that are not through yet, then judge all of them."""
    from tqdm import tqdm

    from dalle.systems.round_trip.evaluate import captioned, trips
    from dalle.systems.round_trip.trips import append, begin
    from dalle.training.lock import FolderLock

    _check(command)
    pipeline = load_pipeline(command.trip)
    source = _source(command, pipeline)
    indices = captioned(source, most=command.most, seed=command.trip.seed)
    more = {"data": command.data, "task": command.task, "by": command.by}
    settings = recorded(command.trip, pipeline, **more, judge=command.judge, most=command.most)
    out = command.out.expanduser()
    with FolderLock(out):
        made = begin(out, settings)
        through = {trip.index for trip in made}
        left = [index for index in indices if index not in through]
        if through:
            print(f"{len(through)} of {len(indices)} samples are through, {len(left)} are left")
        if left:
            take, skipped = _take(command, pipeline), list[str]()
            new = trips(source, left, take, seed=command.trip.seed, skipped=skipped.append)
            for trip in tqdm(new, total=len(left), unit="sample", disable=not sys.stderr.isatty()):
                append(out, trip)
                made.append(trip)
            if skipped:
                print(f"{len(skipped)} samples cannot be read; the first: {skipped[0]}")
        _conclude(command, made, out)


def _check(command: ReconstructEvaluateCommand) -> None:
    if command.most is not None and command.most < 2:
        raise ConfigError(f"most is {command.most}; expected at least 2 samples")
    if command.task == "text" and command.judge is None:
        raise ConfigError("pictures are judged by a CLIP that did not choose them; give --judge")
    if command.task == "text" and command.by != "similarity":
        raise ConfigError("--by log_prob chooses captions; leave it out with --task text")


def _source(command: ReconstructEvaluateCommand, pipeline: "Pipeline") -> "Source":
    from dalle.data.sources import numbered, open_source

    size = max(pipeline.image_tokenizer.image_size)
    return numbered(open_source(command.data, size=size), command.data)


def _take(command: ReconstructEvaluateCommand, pipeline: "Pipeline") -> "Take":
    from dalle.sampling.load import choose_device
    from dalle.systems.round_trip.evaluate import caption_trip, picture_trip
    from dalle.systems.round_trip.similarity import load_similarity

    judge = None
    if command.judge is not None:
        device = choose_device(command.trip.device)
        judge = load_similarity(command.judge, space="projected", device=device)
    if command.task == "image":
        return caption_trip(caption_chooser(command.trip, pipeline, by=command.by), judge)
    assert judge is not None  # it was asked for
    return picture_trip(picture_chooser(command.trip, pipeline), judge)


def _conclude(command: ReconstructEvaluateCommand, made: "list[Trip]", out: Path) -> None:
    """Judge, print, and write results.json and by-rank.png, which a later command may replace."""
    from dalle.checkpoint.manifest import saving, write_json
    from dalle.config import to_json
    from dalle.systems.round_trip.curve import curves
    from dalle.systems.round_trip.evaluate import measures, table

    if len(made) < 2:
        raise DataError(f"{len(made)} samples are through; a judgement by rank needs two at least")
    results = measures(made, of_captions=command.task == "image", seed=command.trip.seed)
    print(f"{len(made)} samples of {command.trip.candidates} candidates\n\n{table(results)}\n")
    with saving(out):
        write_json(out / "results.json", {one.measure: to_json(one) for one in results})
        curves(results).save(out / "by-rank.png")
    print(f"results.json, by-rank.png, and every candidate: {out}")
