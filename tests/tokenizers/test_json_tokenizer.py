"""A `tokenizer.json` as a text tokenizer."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.json_tokenizer import JsonTokenizer
from dalle.tokenizers.kinds import load_text_tokenizer


def description() -> str:
    """Five words, with marks that it puts around a text, a fixed length and a limit."""
    vocab = {word: i for i, word in enumerate(["[UNK]", "[CLS]", "a", "red", "cube"])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(3)
    tokenizer.add_tokens(["ball"])
    return str(tokenizer.to_str())


def test_nothing_is_put_around_a_text_and_added_entries_count() -> None:
    tokenizer = JsonTokenizer(description())
    assert tokenizer.vocab_size == 6
    assert tokenizer.encode("a red cube red ball") == [2, 3, 4, 3, 5]
    assert tokenizer.decode([3, 4]) == "red cube"
    assert tokenizer.encode_stream("red \ud800", slots=4).ids.tolist() == [6, 3, 0, 9]
    assert tokenizer.empty_stream(2).tolist() == [6, 7]
    with pytest.raises(InputError, match="token id 6"):
        tokenizer.decode([6])


def test_the_file_brings_it_back(tmp_path: Path) -> None:
    path = tmp_path / "text_tokenizer.json"
    JsonTokenizer(description()).save(path)
    loaded = load_text_tokenizer(path)
    assert isinstance(loaded, JsonTokenizer)
    assert loaded.encode("a red cube red ball") == [2, 3, 4, 3, 5]
    path.write_text('{"format": 1, "kind": "tokenizers_json", "tokenizer": {}}')
    with pytest.raises(CheckpointError, match=r"text_tokenizer\.json: this describes no tokenizer"):
        load_text_tokenizer(path)
