"""Tiny untrained captioners of `transformers`, saved as folders."""

from pathlib import Path
from typing import Any

import torch

WORDS = [
    "a",
    "picture",
    "of",
    "the",
    "red",
    "blue",
    "circle",
    "square",
    "is",
    "left",
    "small",
    "two",
]
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SIDE = 32


def louder(model: Any) -> Any:
    """The model with weights so large that what it writes depends on what it sees."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= 12
    return model


def save_bert_tokenizer(folder: Path) -> int:
    """Whole words; the number of entries."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "[DEC]"]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    BertTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    return len(vocab)


def save_blip(folder: Path) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    size = save_bert_tokenizer(folder)
    torch.manual_seed(0)
    text = TOWER | {
        "vocab_size": size,
        "encoder_hidden_size": 32,
        "projection_dim": 16,
        "max_position_embeddings": 40,
        "bos_token_id": size - 1,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "sep_token_id": 3,
    }
    # By default the vision tower begins at 1e-10, and sees nothing.
    vision = TOWER | {"image_size": SIDE, "patch_size": 8, "initializer_range": 0.02}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    louder(BlipForConditionalGeneration(config)).save_pretrained(str(folder))
    BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(str(folder))


def save_git(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, GitConfig, GitForCausalLM

    size = save_bert_tokenizer(folder)
    torch.manual_seed(0)
    config = GitConfig(
        vision_config=TOWER | {"image_size": SIDE, "patch_size": 8},
        **TOWER,
        vocab_size=size,
        max_position_embeddings=60,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    louder(GitForCausalLM(config)).save_pretrained(str(folder))
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(str(folder))


def save_blip2(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        BlipImageProcessorPil,
        OPTConfig,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "</s>", "<unk>", "<image>", *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    ).save_pretrained(str(folder))
    torch.manual_seed(0)
    config = Blip2Config(
        vision_config=TOWER | {"image_size": SIDE, "patch_size": 8},
        qformer_config=TOWER | {"encoder_hidden_size": 32, "vocab_size": 5},
        text_config=OPTConfig(
            vocab_size=len(words),
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=60,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        ).to_dict(),
        num_query_tokens=4,
        image_token_index=3,
    )
    louder(Blip2ForConditionalGeneration(config)).save_pretrained(str(folder))
    BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(str(folder))


SAVERS = {"blip": save_blip, "blip-2": save_blip2, "git": save_git}
