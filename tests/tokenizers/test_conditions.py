"""What LlamaGen reads of a prompt: features of a T5, here a tiny random one, or a class."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.class_numbers import ClassNumbers
from dalle.tokenizers.t5_features import T5Features, tidied

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "cube", "cat", ",", "."]
SLOTS = 6


def save_t5(folder: Path, *, width: int = 8) -> Path:
    """A T5 of `transformers` with a tokenizer of whole words, which puts an end after them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    vocab = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(str(folder))
    config = T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=4, d_ff=16, num_layers=2, num_heads=2
    )
    T5EncoderModel(config).eval().save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("t5"))


def test_features_stand_at_the_end_and_are_those_of_a_padded_batch(t5: Path) -> None:
    """The original fills up on the right, masks, multiplies by the mask, and turns it round."""
    from transformers import AutoTokenizer, T5EncoderModel

    prompts = ["A red cube", "cat"]
    tokenizer: Any = AutoTokenizer.from_pretrained(str(t5))
    batch = tokenizer(
        [prompt.lower() for prompt in prompts],
        max_length=SLOTS, padding="max_length", truncation=True, return_tensors="pt",
    )  # fmt: skip
    encoder: Any = T5EncoderModel.from_pretrained(str(t5))
    with torch.no_grad():
        read = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    reader = T5Features(str(t5), vocab_size=8)
    for prompt, features, mask in zip(
        prompts, read.last_hidden_state, batch["attention_mask"], strict=True
    ):
        count = int(mask.sum())
        stream = reader.encode_stream(prompt, slots=SLOTS)
        assert (stream.num_tokens, stream.num_cut) == (count, 0)
        assert not stream.ids[: SLOTS - count].any()
        expected = features[:count].numpy()
        np.testing.assert_allclose(stream.ids[SLOTS - count :], expected, atol=1e-5)


def test_long_captions_keep_the_end_and_empty_ones_are_the_end(t5: Path) -> None:
    reader = T5Features(str(t5), vocab_size=8)
    long = reader.encode_stream("a red cube a blue cube a cat", slots=4)
    assert (long.num_tokens, long.num_cut) == (4, 5)
    cut = reader.encode_stream("a red cube", slots=4)
    np.testing.assert_allclose(long.ids, cut.ids, atol=1e-6)
    empty = reader.empty_stream(4)
    assert not empty[:3].any() and empty[3].any()
    assert reader.decode(reader.encode("a red cube")) == "a red cube"


def test_the_file_names_the_t5(t5: Path, tmp_path: Path) -> None:
    path = tmp_path / "text_tokenizer.json"
    T5Features(str(t5), vocab_size=8).save(path)
    again = T5Features.load(path)
    assert (again.where, again.vocab_size) == (str(t5), 8)
    assert again.encode_stream("cat", slots=3).ids.shape == (3, 8)
    path.write_text(json.dumps({**json.loads(path.read_text()), "features": "8"}))
    with pytest.raises(CheckpointError, match="expected t5 a name, and features a number"):
        T5Features.load(path)


def test_a_t5_that_is_not_there_or_does_not_fit_is_refused(t5: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded.*download google/flan-t5-xl"):
        T5Features(str(tmp_path / "none"), vocab_size=8).encode("a")
    with pytest.raises(InputError, match="has 8 features; the model was trained with 2048"):
        T5Features(str(t5), vocab_size=2048).encode("a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Red Cube", "a red cube"),
        ("a (red) cube & a cat", "a red cube a cat"),
        ("a red,blue cube.really", "a red, blue cube. really"),
        ("3,000 cubes at 2.5", "3,000 cubes at 2.5"),
        ("“a cube”", "a cube"),
        ("a cat\u2019s cube \u2013 red", "a cat's cube - red"),
        ("a-b-c-d-e", "a b c d e"),
        ("a-b-c", "a-b-c"),
        ("wait... a cube!", "wait a cube!"),
        ("&amp;quot;a&amp;quot; b,", '"a" b'),
    ],
)
def test_captions_are_tidied_as_in_training(text: str, expected: str) -> None:
    assert tidied(text) == expected


def test_a_class_is_a_number(tmp_path: Path) -> None:
    classes = ClassNumbers(1000)
    assert classes.encode_stream(" 207 ", slots=1).ids.tolist() == [207]
    assert classes.empty_stream(1).tolist() == [1000]
    assert classes.decode([207]) == "207"
    for prompt in ("1000", "a cat", "-1", "٣", "9" * 5000):
        with pytest.raises(InputError, match="takes the number: 0 to 999"):
            classes.encode(prompt)
    path = tmp_path / "text_tokenizer.json"
    classes.save(path)
    assert ClassNumbers.load(path).vocab_size == 1000
    path.write_text(path.read_text().replace("1000", "0"))
    with pytest.raises(CheckpointError, match="0 classes; expected at least 1"):
        ClassNumbers.load(path)
