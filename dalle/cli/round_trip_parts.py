"""What the commands of the round trip have in common: who paints, who writes, who compares."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dalle import __version__
from dalle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from dalle.sampling.pipeline import Pipeline
    from dalle.systems.round_trip.choose import CaptionCandidate, Choice, PictureCandidate
    from dalle.systems.round_trip.parts import Captioner, Generator, Similarity

By = Literal["similarity", "log_prob"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionSettings:
    """Who writes captions, and how they are drawn."""

    captioner: str | None = None
    """BLIP, BLIP-2 or GIT of `transformers`, as a folder or hub name; None: the model itself, which
    then has to be trained in both orders."""
    prefix: str | None = None
    """With what captions of --captioner begin; it is taken off again. None: "a picture of" for
    BLIP, nothing for the others."""
    caption_temperature: float = 1.0
    """Divides the logits of a caption's tokens."""
    caption_top_k: int | None = None
    """Draw among the k most likely tokens."""
    caption_top_p: float | None = 0.9
    """Draw among the fewest most likely tokens whose probabilities reach p."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TripSettings:
    """Models and numbers of a round trip."""

    model: str
    """What paints: a model folder, a run (its newest whole step is taken), or a model's name on the
    hub."""
    writing: CaptionSettings
    clip: str | None = None
    """What compares pictures, or texts: a CLIP of ours, or a CLIP or SigLIP of `transformers`, as a
    folder or hub name; None: the model's own."""
    space: Literal["projected", "pooler"] = "projected"
    """Compare in the space that a CLIP's two towers share, or (of `transformers` only) in what is
    before it, as was published."""
    candidates: int = 10
    """Captions written of a picture, or pictures painted of a text."""
    per_candidate: int = 1
    """Pictures painted of each caption, or captions written of each picture; their similarities
    are averaged."""
    seed: int = 0
    """Of the first of the candidates, and of the first of what comes of each."""
    temperature: float | None = None
    """Of pictures; None: the model's own setting, here and in the next three."""
    top_k: int | None = None
    top_p: float | None = None
    guidance: float | None = None
    launch: int | None = None
    """How many pictures are sampled at once; None: those of one round trip, at most 32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the transformer; auto: bfloat16 on GPUs that have it."""
    weights: Literal["auto", "ema", "model"] = "auto"
    """auto: the averaged weights where there are any."""


def load_pipeline(settings: TripSettings) -> "Pipeline":
    """The model that paints."""
    from dalle.sampling.load import load

    return load(
        settings.model, device=settings.device, dtype=settings.dtype, weights=settings.weights
    )


def captioner_of(
    settings: CaptionSettings, pipeline: "Pipeline | None", device: str
) -> "Captioner":
    """What writes captions: a captioner of `transformers`, or the model itself.

    Raises:
        InputError: there is neither.
    """
    from dalle.sampling.load import choose_device
    from dalle.systems.round_trip.captioner_transformers import CaptionSampling, load_captioner
    from dalle.systems.round_trip.ours import PipelineCaptioner

    if settings.captioner is not None:
        return load_captioner(
            settings.captioner,
            prefix=settings.prefix,
            sampling=CaptionSampling(
                temperature=settings.caption_temperature,
                top_k=settings.caption_top_k,
                top_p=settings.caption_top_p,
            ),
            device=choose_device(device),
        )
    if pipeline is None:
        raise InputError(
            "nothing is there to write captions; give --captioner, or a --model that was trained "
            "in both orders"
        )
    if settings.prefix is not None:
        raise InputError("--prefix is for a --captioner; a model of ours begins by itself")
    return PipelineCaptioner(
        pipeline,
        temperature=settings.caption_temperature,
        top_k=settings.caption_top_k,
        top_p=settings.caption_top_p,
    )


def caption_chooser(
    settings: TripSettings,
    pipeline: "Pipeline",
    *,
    by: By,
    progress: "Callable[[int], None] | None" = None,
) -> "Callable[[Image.Image, int], Choice[CaptionCandidate]]":
    """What chooses captions: a function of a picture and a seed.

    Args:
        settings: of the command.
        pipeline: the model.
        by: "similarity" of the painted pictures, or "log_prob", ln p(picture | caption).
        progress: called with the number of codes just sampled.
    """
    from dalle.systems.round_trip.choose import choose_caption, choose_caption_by_score
    from dalle.systems.round_trip.ours import PipelineScorer

    captioner = captioner_of(settings.writing, pipeline, settings.device)
    if by == "log_prob":
        scorer = PipelineScorer(pipeline)
        return lambda image, seed: choose_caption_by_score(
            image,
            captioner=captioner,
            scorer=scorer,
            num_candidates=settings.candidates,
            seed=seed,
        )
    similarity = _similarity(settings, pipeline)
    generator = _generator(settings, pipeline, progress)
    return lambda image, seed: choose_caption(
        image,
        captioner=captioner,
        generator=generator,
        similarity=similarity,
        num_candidates=settings.candidates,
        num_pictures=settings.per_candidate,
        seed=seed,
    )


def picture_chooser(
    settings: TripSettings,
    pipeline: "Pipeline",
    *,
    progress: "Callable[[int], None] | None" = None,
) -> "Callable[[str, int], Choice[PictureCandidate]]":
    """What chooses pictures: a function of a text and a seed."""
    from dalle.systems.round_trip.choose import choose_picture

    captioner = captioner_of(settings.writing, pipeline, settings.device)
    similarity = _similarity(settings, pipeline)
    generator = _generator(settings, pipeline, progress)
    return lambda text, seed: choose_picture(
        text,
        generator=generator,
        captioner=captioner,
        similarity=similarity,
        num_candidates=settings.candidates,
        num_captions=settings.per_candidate,
        seed=seed,
    )


def _similarity(settings: TripSettings, pipeline: "Pipeline") -> "Similarity":
    from dalle.sampling.load import choose_device
    from dalle.systems.round_trip.similarity import load_similarity, similarity_of

    if settings.clip is not None:
        device = choose_device(settings.device)
        return load_similarity(settings.clip, space=settings.space, device=device)
    if pipeline.reranker is None:
        raise InputError(f"{settings.model} has no CLIP to compare with; name one with --clip")
    return similarity_of(pipeline.reranker, space=settings.space)


def _generator(
    settings: TripSettings, pipeline: "Pipeline", progress: "Callable[[int], None] | None"
) -> "Generator":
    from dalle.sampling.request import Request
    from dalle.systems.round_trip.ours import PipelineGenerator

    launch = settings.launch
    if launch is None:  # a launch that is not full takes as long
        launch = min(32, max(1, settings.candidates * settings.per_candidate))
    request = Request(
        seed=settings.seed,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        guidance=settings.guidance,
        launch=launch,
    )
    request.sampling(pipeline.sampling)  # refuses wrong numbers before anything is computed
    return PipelineGenerator(pipeline, request=request, progress=progress)


def recorded(settings: TripSettings, pipeline: "Pipeline", **more: Any) -> dict[str, Any]:
    """Settings as they stand in a report: all that it takes to do it again."""
    from dalle.config import to_json

    flat = to_json(settings)
    return {
        **flat.pop("writing"),
        **flat,
        **more,
        "model_hash": pipeline.origin.model_hash,
        "version": __version__,
    }
