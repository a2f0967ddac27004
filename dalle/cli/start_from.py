"""What a run starts from: a new decoder, or a trained one of any family (`--start-from`)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle.checkpoint import DECODERS, IMAGE_TOKENIZER, RERANKER, TEXT_TOKENIZER
from dalle.checkpoint.load import (
    check_listed,
    checked_config,
    choose_weights,
    read_config,
    resolve_decoder,
)
from dalle.errors import ConfigError
from dalle.presets import DALLE_PRESETS, DalleRun
from dalle.presets.settings import TextSettings
from dalle.protocols import ImageTokenizer
from dalle.sampling.filters import Sampling
from dalle.sampling.load import own_sampling
from dalle.tokenizers.kinds import PromptTokenizer, load_text_tokenizer
from dalle.tokenizers.text import TextTokenizer
from dalle.training.text_targets import family_targets


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A decoder with all that lies beside it."""

    kind: str
    config: Any
    weights: Path | None
    """Its file of weights, the averaged ones where there are any; None for a new one."""
    text_tokenizer: PromptTokenizer
    image_tokenizer: Path
    reranker: Path | None = None
    sampling: Sampling
    source: dict[str, Any] | None = None
    """Where its weights were published, under which licence."""


def new_decoder(
    run: DalleRun, vae: Path, image_tokenizer: ImageTokenizer, text_tokenizer: TextTokenizer
) -> Start:
    """One of our own, of the sizes that were asked for."""
    config = run.model_config(
        text_vocab=text_tokenizer.vocab_size,
        codes=image_tokenizer.vocab_size,
        grid=image_tokenizer.grid,
    )
    return Start(
        kind="dalle",
        config=config,
        weights=None,
        text_tokenizer=text_tokenizer,
        image_tokenizer=vae,
        sampling=run.sampling_config(),
    )


def start_of(run: DalleRun, *, begun: Path | None) -> Start | None:
    """What `--start-from` names, or the checkpoint that such a run goes on from; None without it.

    Raises:
        ConfigError: models of its family are not trained here, or settings came that are the
            model's own.
        CheckpointError: it is damaged, or draws no pictures.
    """
    if run.start_from is None:
        return None
    if begun is None:
        _check_settings(run)
    given = run.text.text_tokenizer
    folder = begun or resolve_decoder(
        run.start_from, text_tokenizer=None if given is None else Path(given).expanduser()
    )
    fields = read_config(folder, kind=DECODERS)
    family_targets(fields["kind"])
    name = choose_weights(folder, "auto")
    check_listed(folder, name)
    text, pictures, reranker = (
        folder / part for part in (TEXT_TOKENIZER, IMAGE_TOKENIZER, RERANKER)
    )
    source = fields.get("source")
    return Start(
        kind=fields["kind"],
        config=checked_config(folder, fields, name),
        weights=folder / name,
        text_tokenizer=load_text_tokenizer(text),
        image_tokenizer=pictures,
        reranker=reranker if reranker.is_dir() else None,
        sampling=own_sampling(fields, folder),
        source=source if isinstance(source, dict) else None,
    )


def _check_settings(run: DalleRun) -> None:
    """Refuse what would be passed over: sizes, tokenizers and sampling are the started model's."""
    preset = DALLE_PRESETS[run.preset]
    prompts = run.sampling.preview_prompts
    for asked, own in (
        (run.model, preset.model),
        (run.sampling, dataclasses.replace(preset.sampling, preview_prompts=prompts)),
        (_sizes(run.text), _sizes(preset.text)),
        (run.vae, None),
    ):
        if asked != own:
            flag = _first_difference(asked, own)
            raise ConfigError(
                f"--{flag} came with --start-from: it is what {run.start_from} has; leave it out"
            )


def _sizes(text: TextSettings) -> TextSettings:
    """Without what may be chosen for a trained model too."""
    return dataclasses.replace(text, bpe_dropout=0.0, long_captions="cut", text_tokenizer=None)


def _first_difference(asked: Any, own: Any) -> str:
    if not dataclasses.is_dataclass(asked):
        return "vae"
    names = (field.name for field in dataclasses.fields(asked))
    differing = next(n for n in names if getattr(asked, n) != getattr(own, n))
    return differing.replace("_", "-")
