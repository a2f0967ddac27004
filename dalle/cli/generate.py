"""`dalle generate`: pictures from prompts."""

import warnings
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dalle.cli import plain
from dalle.cli.drawing import draw, draw_and_save
from dalle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dalle.sampling.joint_prompts import VectorPrompt
    from dalle.sampling.pipeline import Pipeline
    from dalle.sampling.prompts import PromptLine
    from dalle.sampling.request import Request, Wanted


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateCommand:
    """Generate pictures from prompts, rank them, and keep the best.

    dalle generate --model runs/birds "a red bird" "a blue bird" --num-samples 64 --keep 8
    """

    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Prompts; an empty one ("") gives pictures without a condition."""
    model: str
    """A model folder, a run (its newest whole step is taken), another project's checkpoint, or a
    model's name on the hub."""
    text_tokenizer: Path | None = None
    """The file of the text tokenizer, for another project's checkpoint without one beside it."""
    prompts: Path | None = None
    """A UTF-8 file with further prompts, one a line; or .jsonl with objects of prompt and, where
    it has its own, num_samples and seed."""
    clip: str | None = None
    """What ranks the pictures, instead of the model's own reranker: a CLIP of ours, or a CLIP or
    SigLIP of `transformers`, as a folder or hub name."""
    out: Path = Path("pictures")
    """Folder for the pictures, the contact sheet and the JSON file; nothing in it is
    overwritten."""
    num_samples: int = 1
    """Pictures drawn for each prompt."""
    keep: int | None = None
    """How many of them are kept, the best ones; None: all."""
    rank_by: Literal["auto", "clip", "log_prob"] = "auto"
    """auto: the reranker where there is one, else the model's own ln p(picture | text)."""
    seed: int = 0
    """Picture i of a prompt has the seed `seed + i`."""
    temperature: float | None = None
    """0 takes the most likely code. Here and in the next three, None is the model's own
    setting."""
    top_k: int | None = None
    """Draw among the k most likely codes."""
    top_p: float | None = None
    """Draw among the fewest most likely codes whose probabilities reach p."""
    guidance: float | None = None
    """1 is none; above 1 the text counts for more."""
    image: Path | None = None
    """A picture of which the part outside --rect is kept."""
    rect: tuple[int, int] | None = None
    """First row and column, in cells of the grid, of what is drawn anew; all below and to the
    right. `15 0` keeps the top 15 rows."""
    variations_of: tuple[Path, ...] = ()
    """Pictures of which others like them are drawn, by a model trained with --condition clip."""
    between: tuple[str, str] | None = None
    """Two prompts, from one of which to the other pictures are drawn in --steps, likewise."""
    steps: int = 5
    """Of --between, both ends included."""
    complete_text: bool = False
    """Go on with the prompts as captions, instead of drawing pictures."""
    launch: int | None = None
    """How many pictures are sampled at once, at most; None: as many as pay and fit into memory.
    With bfloat16 and float16 a picture depends on it."""
    graph: bool = True
    """On CUDA devices, record a step of sampling as a CUDA graph and play it."""
    dry_run: bool = False
    """Sample a few codes of a launch, say what memory and time it takes, and write nothing; prompts
    may be left out."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the transformer; auto: bfloat16 on GPUs that have it."""
    weights: Literal["auto", "ema", "model"] = "auto"
    """auto: the averaged weights where there are any."""


def run(command: GenerateCommand) -> None:
    """Generate, save, and say where; of several processes, the main one saves and says."""
    from dalle.config import from_json, to_json
    from dalle.launched import joined
    from dalle.sampling.load import load
    from dalle.sampling.prompts import PromptLine

    with joined() as processes:
        if not processes.is_main:
            warnings.simplefilter("ignore")  # the main process says the same
        told = processes.on_main(lambda: to_json(_prompts(command)))
        prompts = [from_json(PromptLine, line) for line in told]
        request = _request(command)
        model = load(
            command.model,
            device=command.device,
            dtype=command.dtype,
            clip=command.clip,
            weights=command.weights,
            text_tokenizer=command.text_tokenizer,
            processes=processes,
        )
        if command.dry_run:
            _dry_run(model, request, len(prompts))
        elif command.complete_text:
            _complete(model, [line.prompt for line in prompts], request)
        else:
            vectors = processes.on_main(lambda: _vectors(command, model))
            wanted = [*_wanted(prompts, request), *_wanted(vectors, request)]
            if processes.is_main:
                draw_and_save(model, wanted, request, command.out)
            else:
                for _ in draw(model, wanted, request):
                    pass
        processes.barrier()  # whoever leaves early is missed


def _prompts(command: GenerateCommand) -> "list[PromptLine]":
    from dalle.sampling.prompts import PromptLine, read_prompts

    prompts = [PromptLine(prompt=text) for text in command.texts]
    if command.prompts is not None:
        prompts += read_prompts(command.prompts)
    wordless = command.variations_of or command.between
    if command.complete_text and wordless:
        raise InputError("--complete-text goes on with prompts; it has no use for vectors")
    if not prompts and not wordless and not command.dry_run:
        raise InputError('no prompt came; give some, or a file with --prompts ("" is no condition)')
    return prompts


def _vectors(command: GenerateCommand, model: "Pipeline") -> list["VectorPrompt"]:
    """What stands in place of further prompts."""
    vectors = [model.variation(path) for path in command.variations_of]
    if command.between is not None:
        vectors += model.between(*command.between, steps=command.steps)
    return vectors


def _request(command: GenerateCommand) -> "Request":
    from dalle.sampling.request import Request

    return Request(
        num_samples=command.num_samples,
        keep=command.keep,
        seed=command.seed,
        temperature=command.temperature,
        top_k=command.top_k,
        top_p=command.top_p,
        guidance=command.guidance,
        image=command.image,
        rect=command.rect,
        rank_by=command.rank_by,
        launch=command.launch,
        graph=command.graph,
    )


def _dry_run(model: "Pipeline", request: "Request", num_prompts: int) -> None:
    from dalle.sampling.rehearsal import rehearse

    found = rehearse(model, request, max(1, num_prompts))
    if not model.processes.is_main:
        return
    mib = 2**20
    print(f"{found.launch:,} pictures at once, of {max(1, num_prompts):,} prompts")
    print(
        f"keys and values: {found.per_picture / mib:,.2f} MiB a picture, "
        f"{found.per_prompt / mib:,.2f} MiB a prompt"
    )
    print(
        f"peak memory: {found.peak / mib:,.0f} MiB; {found.free / mib:,.0f} MiB were free, enough "
        f"for about {found.largest:,} pictures at once (counted, not tried)"
    )
    print(f"{found.pictures_a_second:.3g} pictures a second by this process, without a reranker")
    print("nothing was written")


def _complete(model: "Pipeline", beginnings: list[str], request: "Request") -> None:
    """Print captions; each process completes one beginning at a time."""
    sampling, processes = request.sampling(model.sampling), model.processes

    def completed(beginning: str) -> list[str]:
        return model.complete_text(
            beginning,
            num_samples=request.num_samples,
            seed=request.seed,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )

    for start in range(0, len(beginnings), processes.size):
        mine = beginnings[start : start + processes.size][processes.rank :][:1]
        texts = processes.together(partial(_each, completed, mine))
        for text in chain(*chain(*processes.gather_values(texts))):
            print(plain(text))


def _each(work: "Callable[[str], list[str]]", beginnings: list[str]) -> list[list[str]]:
    return [work(beginning) for beginning in beginnings]


def _wanted(
    prompts: "Sequence[PromptLine | VectorPrompt]", request: "Request"
) -> "Iterator[Wanted]":
    """What each line asks for, and the request where it asks for nothing of its own."""
    from dalle.sampling.prompts import PromptLine
    from dalle.sampling.request import Wanted

    for one in prompts:
        line = one if isinstance(one, PromptLine) else None
        number, seed = (line.num_samples, line.seed) if line else (None, None)
        yield Wanted(
            prompt=one.prompt if isinstance(one, PromptLine) else one,
            num_samples=request.num_samples if number is None else number,
            seed=request.seed if seed is None else seed,
        )
