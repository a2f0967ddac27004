"""One evaluation from beginning to end, in a folder from which a stopped one goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dalle.checkpoint.manifest import saving, write_json
from dalle.config import to_json
from dalle.errors import ConfigError, InputError
from dalle.evaluation.captioned_set import CaptionedSet
from dalle.evaluation.generated import (
    Judges,
    Track,
    Work,
    best_of_rows,
    generated_features,
    generated_rows,
    real_rows,
    text_features,
)
from dalle.evaluation.model_rows import likelihood_rows, reconstruct, reconstruction_rows
from dalle.evaluation.networks import fingerprint_of
from dalle.evaluation.protocol import Protocol
from dalle.evaluation.report import FILE, Conditions, Judged, Report, Row, write_report
from dalle.evaluation.result_pictures import write_pictures
from dalle.evaluation.retrieval import cosines
from dalle.evaluation.samples import Drawn, draw_samples, read_drawn
from dalle.json_files import read_json
from dalle.models.dalle import Dalle
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.request import Request

Part = Literal["likelihood", "reconstruction", "real", "generation"]
PARTS: tuple[Part, ...] = ("likelihood", "reconstruction", "real", "generation")
SETTINGS = "evaluation.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What is evaluated, on what, how, by what."""

    pipeline: Pipeline
    chosen: CaptionedSet
    source: str
    """The data set as it was named."""
    protocol: Protocol
    request: Request
    judges: Judges
    parts: tuple[Part, ...]
    out: Path
    track: Track

    def work(self) -> Work:
        """The part of it that judges need."""
        height, width = self.pipeline.image_tokenizer.image_size
        return Work(
            chosen=self.chosen,
            protocol=self.protocol,
            image_size=(height, width),
            judges=self.judges,
            out=self.out,
            track=self.track,
        )


def check_judges(pipeline: Pipeline, protocol: Protocol, judges: Judges) -> None:
    """That whoever judges has neither chosen the pictures nor conditioned the model.

    Raises:
        ConfigError: the CLIP that judges is the one that ranks, or whose vectors are the prompts.
    """
    if judges.clip is None:
        return
    ranker = pipeline.reranker if protocol.samples > 1 else None
    # A model that is conditioned on a CLIP's vectors has it in what reads its prompts.
    conditioner = getattr(pipeline.text_tokenizer, "embedder", None)
    for other, does in (
        (ranker, f"chooses among {protocol.samples} pictures"),
        (conditioner, "turns the captions into the model's condition"),
    ):
        if fingerprint_of(other) == judges.clip.fingerprint:
            raise ConfigError(
                f"the CLIP that judges ({judges.clip.fingerprint}) is the one that {does}: its "
                "scores would be of its own work; give another one as --judge"
            )


def begin(evaluation: Evaluation) -> None:
    """Make the folder, or see that it holds the same evaluation.

    Raises:
        InputError: it holds another one.
    """
    path = evaluation.out / SETTINGS
    wanted = to_json({"judged": _judged(evaluation), "conditions": _conditions(evaluation)})
    if path.exists():
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error}; give another --out") from None
        if found != wanted:
            raise InputError(
                f"{evaluation.out} holds another evaluation (see {path}): give its settings, or "
                "another --out"
            )
        return
    with saving(path):
        evaluation.out.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)


def draw(evaluation: Evaluation) -> None:
    """Draw the pictures that are not there yet; of several processes, each draws its share."""
    captions = evaluation.chosen.captions
    with evaluation.track("drawing", len(captions)) as progress:
        draw_samples(
            evaluation.pipeline,
            captions,
            evaluation.request,
            best_of=evaluation.protocol.best_of,
            out=evaluation.out,
            progress=progress,
        )


def measure(evaluation: Evaluation) -> Report:
    """All numbers, written as a report, with pictures."""
    work, parts, notes = evaluation.work(), evaluation.parts, []
    rows: list[Row] = []
    if {"likelihood", "reconstruction"} & set(parts):
        pipeline = evaluation.pipeline
        found = reconstruct(pipeline, work)
        if "likelihood" in parts and isinstance(pipeline.model, Dalle):
            rows += likelihood_rows(pipeline, pipeline.model, work, found.codes)
        elif "likelihood" in parts:
            notes.append("no likelihoods: the decoder is another project's, or has no text")
        if "reconstruction" in parts:
            rows += reconstruction_rows(pipeline, work, found)
    if "real" in parts:
        rows += real_rows(work)
    drawn: list[Drawn] = []
    if "generation" in parts:
        drawn = read_drawn(evaluation.out)
        cut = sum(one.num_cut > 0 for one in drawn)
        if cut:
            notes.append(f"{cut} captions are longer than the model reads, and were cut")
        rows += generated_rows(work, drawn)
        if evaluation.protocol.samples > 1:
            rows += best_of_rows(work, drawn)
    report = Report(
        judged=_judged(evaluation),
        source=evaluation.source,
        conditions=_conditions(evaluation),
        rows=tuple(rows),
        notes=tuple(notes),
    )
    with saving(evaluation.out / FILE):
        write_report(report, evaluation.out / FILE)
    write_pictures(
        report,
        captions=evaluation.chosen.captions,
        drawn=drawn,
        cosines=_cosines(work, drawn),
        out=evaluation.out,
    )
    return report


def _cosines(work: Work, drawn: list[Drawn]) -> list[float] | None:
    if not drawn or work.judges.clip is None or work.judges.encoders is None:
        return None
    last = work.protocol.best_of[-1]
    images = generated_features(work, work.judges.clip, drawn, best_of=last).whole()
    found: list[float] = cosines(text_features(work, work.judges.encoders), images).tolist()
    return found


def _conditions(evaluation: Evaluation) -> Conditions:
    return Conditions(
        protocol=evaluation.protocol,
        num_captions=len(evaluation.chosen.captions),
        num_pictures=len(evaluation.chosen.pictures),
        data=evaluation.chosen.fingerprint,
        image_size=evaluation.work().image_size,
    )


def _judged(evaluation: Evaluation) -> Judged:
    pipeline, request = evaluation.pipeline, evaluation.request
    sampling = request.sampling(pipeline.sampling)
    origin, model = pipeline.origin, pipeline.model
    ranks = pipeline.reranker is not None and request.rank_by != "log_prob"
    ranker = f"CLIP {fingerprint_of(pipeline.reranker)}" if ranks else "ln p(picture | text)"
    weights = next(model.parameters()) if isinstance(model, nn.Module) else torch.empty(0)
    return Judged(
        model=origin.model,
        model_hash=origin.model_hash,
        weights=origin.weights,
        sampling=", ".join(f"{k} {v}" for k, v in to_json(sampling).items() if v is not None),
        ranker=ranker if request.num_samples > 1 else "",
        dtype=str(weights.dtype).removeprefix("torch."),
        device=model.device.type,
        versions=f"torch {torch.__version__}",
    )
