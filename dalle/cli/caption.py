"""`dalle caption PICTURE...`: captions of pictures, with scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dalle.cli import plain
from dalle.cli.round_trip_parts import CaptionSettings, captioner_of
from dalle.errors import InputError

if TYPE_CHECKING:
    from dalle.sampling.pipeline import Pipeline
    from dalle.systems.round_trip.parts import CaptionScorer


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionCommand:
    """Write captions of pictures, those that fit best first.

    dalle caption bird.jpg --captioner models/blip --clip models/clip
    """

    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """JPEG, PNG, WebP or GIF."""
    writing: CaptionSettings
    model: str | None = None
    """A DALL·E trained in both orders, as a model folder, a run, or a name on the hub: it writes
    where there is no --captioner. Any DALL·E scores captions, by ln p(picture | caption)."""
    clip: str | None = None
    """Score captions by this CLIP instead: one of ours, or a CLIP or SigLIP of `transformers`."""
    num_captions: int = 10
    """Captions of each picture; equal ones are shown once."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    weights: Literal["auto", "ema", "model"] = "auto"
    """auto: the averaged weights of --model where there are any."""


def run(command: CaptionCommand) -> None:
    """Print the captions of each picture, with their scores where something scores them."""
    from dalle.picture_files import open_image
    from dalle.sampling.load import load
    from dalle.sampling.rerank import rank
    from dalle.systems.round_trip.choose import different

    if command.num_captions < 1:
        raise InputError(f"num_captions is {command.num_captions}; expected at least 1")
    if not command.pictures:
        raise InputError("no picture came; give the paths of some")
    images = [open_image(picture.expanduser()) for picture in command.pictures]
    pipeline = None
    if command.model is not None:
        pipeline = load(command.model, device=command.device, weights=command.weights)
    captioner = captioner_of(command.writing, pipeline, command.device)
    scorer = _scorer(command, pipeline)
    for picture, image in zip(command.pictures, images, strict=True):
        [written] = captioner.caption([image], num_captions=command.num_captions, seed=command.seed)
        captions = list(different(written))
        print(plain(str(picture)))
        if scorer is None:
            print(plain("\n".join(f"  {caption}" for caption in captions)))
            continue
        scores = scorer.score(image, captions)
        for number in rank(scores, len(captions)).tolist():
            print(plain(f"{scores[number].item():11.4f}  {captions[number]}"))


def _scorer(command: CaptionCommand, pipeline: "Pipeline | None") -> "CaptionScorer | None":
    from dalle.sampling.load import choose_device
    from dalle.sampling.rerank import load_reranker
    from dalle.systems.round_trip.ours import PipelineScorer, RerankerScorer

    if command.clip is not None:
        return RerankerScorer(load_reranker(command.clip, choose_device(command.device)))
    return None if pipeline is None else PipelineScorer(pipeline)
