"""`dalle evaluate`: how good a model is, in numbers with their controls."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dalle.cli import plain
from dalle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from dalle.evaluation.captioned_set import CaptionedSet
    from dalle.evaluation.generated import Judges
    from dalle.evaluation.protocol import Protocol
    from dalle.evaluation.run import Evaluation
    from dalle.processes import Processes
    from dalle.sampling.pipeline import Pipeline
    from dalle.sampling.request import Request


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateCommand:
    """Judge a model on captioned pictures it has not seen, or compare two evaluations.

    dalle evaluate --model runs/birds --data birds-heldout --judge other-clip --out judged/birds

    dalle evaluate --compare judged/birds judged/other
    """

    model: str | None = None
    """A model folder, a run (its newest whole step is taken), or a model's name on the hub."""
    data: str | None = None
    """Captioned pictures, as for training; `shapes:heldout` are built in."""
    compare: tuple[str, str] | None = None
    """Two evaluations (folders or reports) side by side, instead of a new one."""
    out: Path = Path("evaluation")
    """Folder for the report, the pictures and what is kept to go on after a stop."""
    protocol: Literal["own", "coco", "coco-unranked"] = "own"
    """coco: the paper's 30,000 captions, the best of 512 for each; coco-unranked: one for each.
    Any other number given makes it your own."""
    captions: int | None = None
    """Pictures are drawn for so many; None: the protocol's, or one for each picture of the data."""
    samples: int | None = None
    """Pictures drawn for each caption, the best of which is kept; None: the protocol's."""
    blur: tuple[float, ...] | None = None
    """Radii at which a FID is taken; None: the protocol's, 0 1 2 4 8."""
    judge: str | None = None
    """The CLIP that judges: one of ours, or a CLIP or SigLIP of `transformers`; not the one that
    ranks. None: the model's own, if every caption gets one picture, so that nothing is ranked."""
    inception: str | None = None
    """The weights of the Inception v3 of FIDs: a file, or owner/name/file on the hub. None: FID and
    KID are over the features of the judge."""
    clip: str | None = None
    """What ranks the pictures, instead of the model's own reranker."""
    parts: tuple[Literal["likelihood", "reconstruction", "real", "generation"], ...] = (
        "likelihood",
        "reconstruction",
        "real",
        "generation",
    )
    """What is measured; real: what the judge says of the real pictures."""
    groups: Literal["none", "folder"] = "none"
    """folder: captions are shuffled, and pictures retrieved, among those of the same folder."""
    seed: int | None = None
    """Of the choice of captions, of shuffling and of the pictures; None: the protocol's, 0."""
    temperature: float | None = None
    """0 takes the most likely code. Here and in the next three, None is the model's own setting."""
    top_k: int | None = None
    """Draw among the k most likely codes."""
    top_p: float | None = None
    """Draw among the fewest most likely codes whose probabilities reach p."""
    guidance: float | None = None
    """1 is none; above 1 the text counts for more."""
    launch: int = 32
    """How many pictures are sampled at once."""
    shapes: int = 1000
    """How many pictures the built-in data set has."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the transformer; auto: bfloat16 on GPUs that have it."""
    weights: Literal["auto", "ema", "model"] = "auto"
    """auto: the averaged weights where there are any."""


def run(command: EvaluateCommand) -> None:
    """Draw on all processes, measure on the main one; or compare."""
    if command.compare is not None:
        from dalle.evaluation.compare import compare
        from dalle.evaluation.report import read_report

        a, b = (read_report(where) for where in command.compare)
        print(plain(compare(a, b)))
        return
    if command.model is None or command.data is None:
        raise ConfigError("give a model and its data (--model, --data), or two reports (--compare)")
    from dalle.evaluation.report import text
    from dalle.evaluation.run import begin, draw, measure
    from dalle.launched import joined

    with joined() as processes:
        if not processes.is_main:
            warnings.simplefilter("ignore")  # the main process says the same
        evaluation = _evaluation(command, command.model, command.data, processes)
        processes.on_main(lambda: begin(evaluation))
        if "generation" in command.parts:
            draw(evaluation)
        processes.barrier()  # whoever leaves early is missed
    if processes.is_main:
        print(plain(text(measure(evaluation))))
        print(f"report, pictures and samples: {command.out}")


def _evaluation(
    command: EvaluateCommand, model: str, data: str, processes: "Processes"
) -> "Evaluation":
    from dalle.evaluation.protocol import protocol_of
    from dalle.evaluation.run import Evaluation, check_judges
    from dalle.sampling.load import load

    protocol = protocol_of(
        command.protocol,
        captions=command.captions,
        samples=command.samples,
        blur=command.blur,
        seed=command.seed,
    )
    pipeline = load(
        model,
        device=command.device,
        dtype=command.dtype,
        clip=command.clip,
        weights=command.weights,
        processes=processes,
    )
    judges = _judges(command, pipeline, protocol)
    check_judges(pipeline, protocol, judges)
    return Evaluation(
        pipeline=pipeline,
        chosen=_chosen(command, data, protocol, pipeline),
        source=data,
        protocol=protocol,
        request=_request(command, protocol),
        judges=judges,
        parts=command.parts,
        out=command.out.expanduser(),
        track=_track if processes.is_main else _silent,
    )


def _chosen(
    command: EvaluateCommand, data: str, protocol: "Protocol", pipeline: "Pipeline"
) -> "CaptionedSet":
    from dalle.data.sources import numbered, open_source
    from dalle.evaluation.captioned_set import choose

    size = pipeline.image_tokenizer.image_size
    source = open_source(data, at_least=min(size), num_samples=command.shapes, size=max(size))
    return choose(
        numbered(source, data),
        num=protocol.captions,
        seed=protocol.seed,
        by_folder=command.groups == "folder",
    )


def _judges(command: EvaluateCommand, pipeline: "Pipeline", protocol: "Protocol") -> "Judges":
    from dalle.evaluation.generated import Judges
    from dalle.evaluation.networks import Encoders, clip_network, inception_network, load_encoders

    device: torch.device = pipeline.model.device
    encoders: Encoders | None = None
    if command.judge is not None:
        encoders = load_encoders(command.judge, device)
    elif protocol.samples == 1 and isinstance(pipeline.reranker, Encoders):
        encoders = pipeline.reranker
    name = command.judge or "of the model's folder"
    clip = clip_network(encoders, name) if encoders is not None else None
    network = clip
    if command.inception is not None:
        network = inception_network(command.inception, device)
    if network is None and {"real", "generation"} & set(command.parts):
        raise ConfigError(
            "there is nothing to judge pictures by: give a CLIP that does not rank them (--judge), "
            "or the weights of Inception v3 (--inception), or leave out real and generation "
            "(--parts likelihood reconstruction)"
        )
    return Judges(network=network, clip=clip, encoders=encoders)


def _request(command: EvaluateCommand, protocol: "Protocol") -> "Request":
    from dalle.sampling.request import Request

    return Request(
        num_samples=protocol.samples,
        seed=protocol.seed,
        temperature=command.temperature,
        top_k=command.top_k,
        top_p=command.top_p,
        guidance=command.guidance,
        launch=command.launch,
    )


@contextmanager
def _track(stage: str, total: int) -> "Iterator[Callable[[int], None]]":
    from tqdm import tqdm

    with tqdm(total=total, desc=stage, leave=False, disable=not sys.stderr.isatty()) as bar:

        def done(count: int) -> None:
            bar.update(count)

        yield done


@contextmanager
def _silent(stage: str, total: int) -> "Iterator[Callable[[int], None]]":
    yield lambda count: None
