"""What a run reads: its pictures in two parts, and its text tokenizer."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dalle.checkpoint import RERANKER, TEXT_TOKENIZER
from dalle.checkpoint.places import resolve
from dalle.checkpoint.steps import find_whole, list_steps
from dalle.data.chosen_rows import MOST_HELD, HeldRows, first_rows, split_stream
from dalle.data.mixture import reports
from dalle.data.order import permutation
from dalle.data.quarantine import without
from dalle.data.sources import open_source
from dalle.data.split import Subset, all_captions, captions_at, split_held_out
from dalle.errors import ConfigError
from dalle.presets.settings import DataSettings, TextSettings
from dalle.protocols import Source, Stream
from dalle.sampling import rerank
from dalle.tokenizers.kinds import PromptTokenizer
from dalle.tokenizers.text import TextTokenizer

SPLIT_SEED = 0
"""The same for all runs: what one model was trained on must not judge another."""
LARGEST_CROP = 1.5
"""The augmentations resize the shorter side to at most so many times the target."""
NUM_PREVIEW_PROMPTS = 4
TOKENIZER_SAMPLES = 20_000
"""Of how many samples the captions teach the tokenizer, at most."""
MEASURED_SAMPLES = 2_000
"""Of how many samples the captions are measured, at most."""
LONG_CAPTIONS = {
    "cut": "their beginnings are used",
    "leave_out": "their pictures are left out",
    "refuse": "the first of them ends the run",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A data set for a run."""

    train: Source | Stream
    held_out: Source | None


def open_parts(
    settings: DataSettings,
    size: tuple[int, int],
    *,
    keep_empty: bool,
    captions: bool = True,
    cache: Path | None = None,
) -> Parts:
    """Open a data set and set its held-out part aside.

    Args:
        settings: which one.
        size: (height, width) of the pictures that will be needed.
        keep_empty: whether pictures without a caption are used.
        captions: whether files of captions are opened.
        cache: where captions are kept.
    """
    if settings.data is None:
        raise ConfigError("--data is missing: give a data set, for example a folder, or `shapes`")
    if not 0 <= settings.held_out_share < 1:
        raise ConfigError(f"held_out_share is {settings.held_out_share}; expected 0 up to below 1")

    def opened(spec: str) -> Source | Stream:
        source = open_source(
            spec,
            keep_empty=keep_empty,
            captions=captions,
            at_least=int(LARGEST_CROP * min(size)),
            num_samples=settings.shapes,
            size=max(size),
            cache=cache,
        )
        for report in reports(source):
            say(report.line())
        return without(source, settings.quarantine)

    source = opened(settings.data)
    if settings.held_out is not None:
        held_out = opened(settings.held_out)
        if isinstance(held_out, Stream):
            held_out = HeldRows(held_out, list(first_rows(held_out, MOST_HELD)))
        return Parts(train=source, held_out=held_out)
    if settings.held_out_share == 0:
        return Parts(train=source, held_out=None)
    if isinstance(source, Stream):
        rows = split_stream(source, fraction=settings.held_out_share, seed=SPLIT_SEED)
        return Parts(train=rows.train, held_out=rows.held_out)
    split = split_held_out(source, fraction=settings.held_out_share, seed=SPLIT_SEED)
    return Parts(train=split.train, held_out=split.held_out)


def newest_step(out: Path) -> Path | None:
    """The checkpoint that a run goes on from; None for a run that is yet to begin."""
    return find_whole(out, training=True).path if list_steps(out) else None


def text_tokenizer(
    settings: TextSettings, source: Source | Stream, *, begun: Path | None
) -> TextTokenizer:
    """The tokenizer that the run began with, the one that was asked for, or a new one.

    Every process of a run comes to the same one.

    Args:
        settings: what was asked for.
        source: whose captions a new one learns.
        begun: the checkpoint that the run goes on from.
    """
    if begun is not None:
        return TextTokenizer.load(begun / TEXT_TOKENIZER)
    if settings.text_tokenizer is not None:
        return given_tokenizer(settings.text_tokenizer)
    say("learning the words of the captions")
    return TextTokenizer.train(
        some_captions(source), vocab_size=settings.text_vocab, lowercase=settings.lowercase
    )


def given_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer in a file, or in a model's folder."""
    given = Path(name).expanduser()
    return TextTokenizer.load(given if given.is_file() else resolve(name) / TEXT_TOKENIZER)


def some_captions(source: Source | Stream, *, most: int = TOKENIZER_SAMPLES) -> Iterator[str]:
    """Captions of a fixed choice of at most so many samples, by default enough to learn from.

    A stream's are the first ones.
    """
    if isinstance(source, Stream):
        for row in first_rows(source, most):
            yield from row.captions
        return
    order = permutation(SPLIT_SEED, 0, len(source))[:most]
    yield from all_captions(Subset(source, order))


def count_long_captions(
    tokenizer: PromptTokenizer, settings: TextSettings, source: Source | Stream, *, slots: int
) -> None:
    """Say how many captions have more tokens than the model has slots, and what is done."""
    if not _speaks():
        return
    room = slots - 1
    captions = some_captions(source, most=MEASURED_SAMPLES)
    cut = [tokenizer.encode_stream(caption, slots=slots).num_cut > 0 for caption in captions]
    long = sum(cut)
    if long:
        say(
            f"{long} of {len(cut)} captions have more than {room} tokens: "
            f"{LONG_CAPTIONS[settings.long_captions]} (--long-captions {settings.long_captions})"
        )


def reranker_folder(clip: str | None, *, begun: Path | None) -> Path | None:
    """The CLIP that the run began with, or the one that was asked for, which is checked."""
    if begun is not None:
        return begun / RERANKER if (begun / RERANKER).is_dir() else None
    if clip is None:
        return None
    folder = rerank.reranker_folder(clip)
    rerank.load_reranker(folder, torch.device("cpu"))
    return folder


def preview_prompts(asked: tuple[str, ...], held_out: Source | None) -> tuple[str, ...]:
    """What the previews of a run show: always the same."""
    if asked or held_out is None:
        return asked
    order = permutation(SPLIT_SEED, 0, len(held_out))[:NUM_PREVIEW_PROMPTS]
    return tuple(captions[0] for i in order.tolist() if (captions := captions_at(held_out, i)))


def out_folder(out: str | None) -> Path:
    """The run's folder, which has no default: runs are long, and easily mixed up."""
    if out is None:
        raise ConfigError("--out is missing: give a folder for the run, for example runs/birds")
    return Path(out).expanduser()


def say(text: str) -> None:
    """A line for the terminal, from one process only."""
    if _speaks():
        print(text, flush=True)


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"
