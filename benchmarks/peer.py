"""Runs one step of another project's model, whenever it is told to, in a process of its own.

    python benchmarks/peer.py NAME train|decode BATCH float32|bfloat16 FOLDER

FOLDER holds a checkout of the project, named as its public repository is; what it imports besides
has to be installed. Their own code runs, in the size of our toy (6 layers of width 384, 6 heads,
256 + 32 x 32 slots, vocabularies 16,384 and 8,192), at image slot 512 in decoding. For each line
that comes in, one step is done and its seconds are written.
"""

import importlib
import os
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

DEPTH, WIDTH, HEADS, TEXT, SIDE = 6, 384, 6, 256, 32
TEXT_VOCAB, IMAGE_VOCAB = 16384, 8192
IMAGE, SLOT = SIDE * SIDE, 512
LENGTH, KNOWN = TEXT + IMAGE, TEXT + SLOT

Step = Callable[[], object]


def main() -> None:
    """Build the step, say so, and do it again for every line."""
    name, mode, batch, dtype, folder = sys.argv[1:]
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sys.path.insert(0, str(Path(folder) / REPOSITORIES[name.partition(":")[0]]))
    build = PEERS[name]
    with torch.set_grad_enabled(mode == "train"):
        step = build(Path(folder), mode, int(batch), getattr(torch, dtype))
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            step()
            print(time.perf_counter() - began, flush=True)


def dalle_pytorch(
    folder: Path, mode: str, batch: int, dtype: torch.dtype, *, patterns: str
) -> Step:
    """lucidrains/DALLE-pytorch. Its feed-forward has 1.5 times the parameters of ours."""
    theirs = dalle_pytorch_model(folder)
    sparse = ("axial_row", "axial_col", "axial_row", "axial_row", "axial_row", "conv_like")
    model = theirs.DALLE(
        dim=WIDTH,
        vae=theirs.DiscreteVAE(
            image_size=256, num_tokens=IMAGE_VOCAB, codebook_dim=64, num_layers=3, hidden_dim=16
        ),
        num_text_tokens=TEXT_VOCAB,
        text_seq_len=TEXT,
        depth=DEPTH,
        heads=HEADS,
        dim_head=WIDTH // HEADS,
        attn_types=sparse if patterns == "sparse" else ("full",),
        shift_tokens=False,
        rotary_emb=True,
    ).to(dtype)
    text = torch.randint(1, TEXT_VOCAB, (batch, TEXT))
    if mode == "train":
        image = torch.randint(0, IMAGE_VOCAB, (batch, IMAGE))
        return lambda: backward(model, model(text, image, return_loss=True))
    image = torch.randint(0, IMAGE_VOCAB, (batch, SLOT))
    model.eval()
    if patterns == "sparse":  # what its generate.py does
        return lambda: model(text, image)
    cache: dict[str, Any] = {}
    model(text, image, cache=cache)
    cache["offset"] = KNOWN
    longer = torch.cat([image, image[:, :1]], dim=1)
    return lambda: model(text, longer, cache=dict(cache))


def llamagen(folder: Path, mode: str, batch: int, dtype: torch.dtype) -> Step:
    """FoundationVision/LlamaGen, conditioned on text features. It learns no text."""
    theirs = importlib.import_module("autoregressive.models.gpt")
    model = theirs.Transformer(
        theirs.ModelArgs(
            dim=WIDTH,
            n_layer=DEPTH,
            n_head=HEADS,
            vocab_size=IMAGE_VOCAB,
            block_size=IMAGE,
            cls_token_num=TEXT,
            caption_dim=WIDTH,
            model_type="t2i",
            resid_dropout_p=0.0,
            ffn_dropout_p=0.0,
            token_dropout_p=0.0,
        )
    )
    model.cls_embedding.uncond_embedding = nn.Parameter(torch.randn(TEXT, WIDTH))
    model.to(dtype)
    if mode == "train":
        codes = torch.randint(0, IMAGE_VOCAB, (batch, IMAGE))
        features = torch.randn(batch, TEXT, WIDTH).to(dtype)
        mask = torch.ones(LENGTH - 1, LENGTH - 1, dtype=torch.bool).tril()
        mask = mask.expand(batch, 1, -1, -1)
        model.train()
        return lambda: backward(
            model,
            model(
                cond_idx=features,
                idx=codes[:, :-1],
                targets=codes,
                mask=mask,
                valid=torch.ones(batch),
            )[1],
        )
    model.eval()
    model.setup_caches(batch, LENGTH, dtype)
    place, last = torch.tensor([KNOWN]), torch.zeros(batch, 1, dtype=torch.long)
    return lambda: model(last, None, place)


def mindalle(folder: Path, mode: str, batch: int, dtype: torch.dtype) -> Step:
    """kakaobrain/minDALL-E."""
    module("omegaconf", OmegaConf=object)
    package(folder, "minDALL-E/dalle", "dalle")
    package(folder, "minDALL-E/dalle/models", "dalle.models")
    theirs = importlib.import_module("dalle.models.stage2.transformer")
    settings = types.SimpleNamespace(
        n_layers=DEPTH,
        n_dense_layers=DEPTH,
        embed_dim=WIDTH,
        n_heads=HEADS,
        ctx_len_img=IMAGE,
        ctx_len_txt=TEXT,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        mlp_bias=True,
        attn_bias=True,
        gelu_use_approx=False,
    )
    model = theirs.Transformer1d(TEXT_VOCAB, IMAGE_VOCAB, settings).to(dtype).eval()
    text = torch.randint(0, TEXT_VOCAB, (batch, TEXT))
    at_text = torch.arange(TEXT).repeat(batch, 1)
    if mode == "train":
        codes = torch.randint(0, IMAGE_VOCAB, (batch, IMAGE))
        at_image = torch.arange(IMAGE).repeat(batch, 1)

        def train() -> None:
            image, words = model(codes, text, at_image, at_text)
            of_text = F.cross_entropy(words.reshape(-1, TEXT_VOCAB), text[:, 1:].reshape(-1))
            backward(
                model, of_text + F.cross_entropy(image.reshape(-1, IMAGE_VOCAB), codes.view(-1))
            )

        return train
    width = WIDTH // HEADS
    past = [torch.randn(DEPTH, 2, batch * HEADS, TEXT, width).to(dtype)]
    past += [torch.randn(DEPTH, 2, batch * HEADS, 1, width).to(dtype) for _ in range(SLOT)]
    codes, at_image = torch.zeros(batch, 1, dtype=torch.long), torch.full((batch, 1), SLOT - 1)

    def decode() -> None:
        _, present = model.sampling(
            images=codes,
            texts=text,
            pos_images=at_image,
            pos_texts=at_text,
            use_fp16=False,
            past=past,
        )
        torch.stack(present).clone()  # as its sampling loop does

    return decode


def rudalle(folder: Path, mode: str, batch: int, dtype: torch.dtype) -> Step:
    """ai-forever/ru-dalle, with masks as its published models have them."""
    package(folder, "ru-dalle/rudalle", "rudalle")
    package(folder, "ru-dalle/rudalle/dalle", "rudalle.dalle")
    theirs = importlib.import_module("rudalle.dalle.model")
    model = theirs.DalleModel(
        "cpu",
        DEPTH,
        TEXT_VOCAB + TEXT,
        WIDTH,
        HEADS,
        0.0,
        0.0,
        0.0,
        text_seq_length=TEXT,
        image_tokens_per_dim=SIDE,
        image_vocab_size=IMAGE_VOCAB,
        is_bool_mask=False,
        cogview_sandwich_layernorm=True,
        cogview_pb_relax=True,
    )
    model = nn.Module.to(model.to("cpu"), dtype).eval()
    mask = torch.tril(torch.ones(batch, 1, LENGTH, LENGTH)).to(dtype)
    text = torch.randint(1, TEXT_VOCAB, (batch, TEXT))
    stream = torch.cat([text, torch.randint(0, IMAGE_VOCAB, (batch, IMAGE))], dim=1)
    if mode == "train":
        return lambda: backward(model, model(stream, mask, return_loss=True)[0])
    _, cache = model(stream[:, :KNOWN], mask, use_cache=True, cache=None)
    return lambda: model(stream[:, : KNOWN + 1], mask, use_cache=True, cache=dict(cache))


def dalle_pytorch_model(folder: Path) -> Any:
    """The module of DALLE-pytorch's model, without its published VAEs and its clusters."""
    package(folder, "DALLE-pytorch/dalle_pytorch", "dalle_pytorch")
    empty = type("Empty", (), {})
    module("dalle_pytorch.vae", OpenAIDiscreteVAE=empty, VQGanVAE=empty)
    module(
        "dalle_pytorch.distributed_utils",
        is_distributed=False,
        using_backend=lambda *kinds: False,
        DeepSpeedBackend=None,
    )
    sys.modules["dalle_pytorch"].distributed_utils = sys.modules[  # type: ignore[attr-defined]
        "dalle_pytorch.distributed_utils"
    ]
    return importlib.import_module("dalle_pytorch.dalle_pytorch")


def backward(model: nn.Module, loss: torch.Tensor) -> None:
    """Forget the gradients, and take those of the loss."""
    model.zero_grad(set_to_none=True)
    loss.backward()


def module(name: str, **contents: object) -> None:
    """Stand in for a module that a model imports but does not need."""
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    sys.modules[name] = made


def package(folder: Path, path: str, name: str) -> None:
    """A package without what its `__init__` would import."""
    module(name, __path__=[str(folder / path)])


def _with_full(folder: Path, mode: str, batch: int, dtype: torch.dtype) -> Step:
    return dalle_pytorch(folder, mode, batch, dtype, patterns="full")


def _with_sparse(folder: Path, mode: str, batch: int, dtype: torch.dtype) -> Step:
    return dalle_pytorch(folder, mode, batch, dtype, patterns="sparse")


PEERS: dict[str, Callable[[Path, str, int, torch.dtype], Step]] = {
    "dalle-pytorch:full": _with_full,
    "dalle-pytorch:sparse": _with_sparse,
    "llamagen": llamagen,
    "mindalle": mindalle,
    "rudalle": rudalle,
}
"""DALLE-pytorch decodes with its cache under `full`, and as its own script does under `sparse`."""
REPOSITORIES = {
    "dalle-pytorch": "DALLE-pytorch",
    "llamagen": "LlamaGen",
    "mindalle": "minDALL-E",
    "rudalle": "ru-dalle",
}

if __name__ == "__main__":
    main()
