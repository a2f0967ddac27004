"""From a pipeline to a model folder."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from dalle.checkpoint import save_model_folder
from dalle.checkpoint.folder import kind_of
from dalle.config import to_json
from dalle.errors import InputError
from dalle.sampling.filters import Sampling
from dalle.sampling.painting import Parts
from dalle.sampling.rerank import ClipReranker
from dalle.tokenizers.image import ModelTokenizer


def save_parts(parts: Parts, sampling: Sampling, folder: str | Path) -> Path:
    """Write a model folder that is enough to generate from: see `Pipeline.save`."""
    model, codec, origin = parts.model, parts.image_tokenizer, parts.origin
    if not isinstance(model, nn.Module) or not isinstance(codec, ModelTokenizer):
        raise InputError("only a model with an image tokenizer of ours can be saved")
    source = {} if origin.source is None else {"source": origin.source}
    with TemporaryDirectory() as scratch:
        reranker = origin.reranker_folder
        if isinstance(parts.reranker, ClipReranker):
            clip = parts.reranker.clip
            assert isinstance(clip, nn.Module)
            reranker = save_model_folder(
                Path(scratch) / "clip",
                kind=kind_of(clip),
                config=clip.config,
                module=clip,
                text_tokenizer=parts.reranker.tokenizer,
            )
        return save_model_folder(
            folder,
            kind=kind_of(model),
            config=model.config,
            module=model,
            extra={"sampling": to_json(sampling), **source},
            text_tokenizer=parts.text_tokenizer,
            image_tokenizer=codec.model,
            reranker=reranker,
        )
