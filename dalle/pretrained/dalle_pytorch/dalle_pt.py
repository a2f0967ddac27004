"""The `dalle.pt` of DALLE-pytorch: the decoder, and the image tokenizer that is stored in it.

Source: lucidrains/DALLE-pytorch, train_dalle.py and generate.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.models.dvae import Dvae
from dalle.models.vqgan import Vqgan
from dalle.pretrained.dalle_pytorch import vae_pt
from dalle.pretrained.dalle_pytorch.config import DallePytorchConfig
from dalle.pretrained.dalle_pytorch.hyperparameters import (
    COL_POSITIONS,
    ROW_POSITIONS,
    TABLE,
    Codes,
    read_config,
)
from dalle.pretrained.dalle_pytorch.keys import FAMILY, StoredStack, read_stack
from dalle.pretrained.dalle_pytorch.model import DallePytorch
from dalle.pretrained.dalle_pytorch.rotary import angles
from dalle.pretrained.dalle_pytorch.text import find_tokenizer, what_is_missing
from dalle.pretrained.dalle_pytorch.vae import DallePytorchVae
from dalle.pretrained.family import Converted, Sighting, Source, Weights, fit
from dalle.pretrained.openai_dvae import from_states as from_openai
from dalle.pretrained.vqgan import from_state as from_vqgan

ImageModel = DallePytorchVae | Dvae | Vqgan
FILTER = 0.9
"""What `--top_k` is by default: the share of the joint vocabulary that is never drawn."""
LICENCE = "not stated (of the code: MIT)"
LAYER = re.compile(r"transformer\.layers\.(layers\.\d+\.[01]|blocks\.\d+\.[fg]\.net)\.")


def recognise(source: Source) -> Sighting | None:
    """A file with the layers and the output matrix of DALLE-pytorch's transformer."""
    weights = _weights(source)
    if weights is None:
        return None
    fields = weights.value if isinstance(weights.value, dict) else {}
    sizes = _sizes(fields.get("hparams"))
    return Sighting(
        family=FAMILY,
        version=str(fields.get("version") or "before 1.1.6"),
        holds="text to image",
        sizes=sizes,
        licence=LICENCE,
        missing=what_is_missing(source, sizes.get("num_text_tokens", 0)),
    )


def convert(source: Source) -> Converted:
    """The decoder with its image tokenizer.

    Raises:
        CheckpointError: a tensor or a hyperparameter is missing, does not fit or is not known.
    """
    sighting, weights = recognise(source), _weights(source)
    assert sighting is not None and weights is not None
    path, fields = weights.path, weights.value if isinstance(weights.value, dict) else {}
    hparams = fields.get("hparams")
    if not isinstance(hparams, dict):
        raise CheckpointError(
            f"{path} holds the tensors of {FAMILY} alone: without `hparams`, which its scripts "
            "write beside them, heads and kinds of layers cannot be known"
        )
    tokenizer = convert_vae(weights.state, fields.get("vae_params"), path=path)
    codes = Codes(vocab=tokenizer.vocab_size, grid=tokenizer.grid)
    module = convert_decoder(hparams, fields.get("version"), weights.state, codes, path)
    text_tokenizer = find_tokenizer(source, module.text_vocab)
    return Converted(
        module=module,
        sighting=sighting if text_tokenizer is None else replace(sighting, missing=()),
        text_tokenizer=text_tokenizer,
        image_tokenizer=tokenizer,
        sampling=default_sampling(module.config),
    )


def default_sampling(config: DallePytorchConfig) -> dict[str, Any]:
    """How its scripts draw by default: without a tenth of the joint vocabulary, text and image.

    Of images that often leaves all codes, which then is no filter at all.
    """
    total = config.text_vocab + config.text_tokens + config.image_vocab
    kept = max(int((1 - FILTER) * total), 1)
    return {"temperature": 1.0, "top_k": kept if kept < config.image_vocab else None}


def convert_decoder(
    hparams: Mapping[str, Any],
    version: Any,
    tensors: Mapping[str, Tensor],
    codes: Codes,
    path: Path,
) -> DallePytorch:
    """The decoder alone.

    Args:
        hparams, version: as stored.
        tensors: by their stored names; those of the VAE are left alone.
        codes: of the VAE.

    Raises:
        CheckpointError: as `convert`.
    """
    state = {name: tensor for name, tensor in tensors.items() if not name.startswith("vae.")}
    stack = read_stack(state, prefix="transformer", path=path)
    config = read_config(hparams, version, state, stack, codes=codes, path=path)
    copies = stack.copies(config.attention_of, config.mlp_of)
    if config.tied:
        for kind in ("weight", "bias"):
            for copy in (f"to_logits.1.{kind}", f"text_emb.linear.{kind}"):
                copies[copy] = f"image_emb.linear.{kind}"
    for copy, kept in copies.items():
        if kept in state and (copy not in state or state[copy].shape != state[kept].shape):
            raise CheckpointError(f"{path} lacks {copy!r}, or it has another shape than {kept!r}")
    if config.rotary:
        _turn(state, config, path)
    module = fit(
        DallePytorch,
        config,
        state,
        path=path,
        family=FAMILY,
        theirs=lambda ours: _original(ours, stack, config, state),
        ignorable=(
            "logits_mask",
            re.escape(TABLE),
            r".*\.attn_fn\.master_layout",
            *map(re.escape, copies),
        ),
    )
    assert isinstance(module, DallePytorch)
    return module


def convert_vae(tensors: Mapping[str, Tensor], parameters: Any, *, path: Path) -> ImageModel:
    """The image tokenizer in a `dalle.pt`, whichever of the three it is.

    Args:
        tensors: by their stored names; those that begin with `vae.` are taken.
        parameters: `vae_params` as stored; None but for DALLE-pytorch's own VAE.

    Raises:
        CheckpointError: there is none, or it is not known.
    """
    openai: dict[str, dict[str, Tensor]] = {"enc": {}, "dec": {}}
    vqgan: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("vae."):
            kind, _, rest = name.removeprefix("vae.").partition(".")
            place = vqgan if kind == "model" else openai.get(kind, own)
            place[name.removeprefix("vae.") if place is own else rest] = tensor
    if own:
        return vae_pt.convert_state(own, parameters, path=path)
    if vqgan:
        return from_vqgan(vqgan, path=path)
    if all(openai.values()):
        return from_openai(openai["enc"], openai["dec"], path=path)
    raise CheckpointError(f"{path} holds no image tokenizer that is known under `vae.`")


def _weights(source: Source) -> Weights | None:
    for weights in source.weights:
        if any(LAYER.match(name) for name in weights.state):
            return weights
    return None


def _sizes(hparams: Any) -> dict[str, int]:
    names = ("depth", "dim", "heads", "num_text_tokens", "text_seq_len")
    values = hparams if isinstance(hparams, dict) else {}
    return {name: values[name] for name in names if isinstance(values.get(name), int)}


def _turn(state: dict[str, Tensor], config: DallePytorchConfig, path: Path) -> None:
    """Put cosine and sine of the rotary angles in place of the table.

    The table is as long as the stream from 1.1.4 on, and one slot shorter before: the last slot is
    never an input.
    """
    expected = angles(config.layout, config.head_width)
    table = state.pop(TABLE, expected).float()
    table = table.flatten(0, -2) if table.ndim else table
    if table.shape == expected[:-1].shape:
        table = torch.cat([table, expected[-1:]])
    if table.shape != expected.shape:
        raise CheckpointError(
            f"{path}: {TABLE!r} is for {tuple(table.shape)} slots and channels; {FAMILY} of this "
            f"size has {tuple(expected.shape)}"
        )
    state[f"{TABLE} (cosine)"], state[f"{TABLE} (sine)"] = table.cos(), table.sin()


_NAMES = {
    "text_embedding.weight": "text_emb.weight",
    "image_embedding.weight": "image_emb.weight",
    "text_position.weight": "text_pos_emb.weight",
    "rotary_cos": f"{TABLE} (cosine)",
    "rotary_sin": f"{TABLE} (sine)",
    "norm.weight": "to_logits.0.weight",
    "norm.bias": "to_logits.0.bias",
}


def _original(
    ours: str, stack: StoredStack, config: DallePytorchConfig, state: Mapping[str, Tensor]
) -> str:
    if ours.startswith("stack."):
        return stack.original(ours.removeprefix("stack."), config.attention_of, config.mlp_of)
    if ours in ("row_position", "col_position"):
        old, new = ROW_POSITIONS if ours == "row_position" else COL_POSITIONS
        return old if old in state else new
    if ours.startswith("head."):
        return ours.replace("head", "image_emb.linear" if config.tied else "to_logits.1")
    return _NAMES[ours]
