"""CLIP's tokenizer by its published rules, on merges that stand in for the published ones."""

from pathlib import Path

import pytest

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.clip_bpe import VOCAB_SIZE, ClipBpe, tidied
from dalle.tokenizers.kinds import load_text_tokenizer
from tests.tokenizers.merges import stand_in_merges


@pytest.fixture(scope="module")
def merges() -> str:
    return stand_in_merges()


@pytest.fixture(scope="module")
def tokenizer(merges: str) -> ClipBpe:
    return ClipBpe.from_merges(merges)


def test_entries_are_bytes_then_word_ends_then_merges(tokenizer: ClipBpe) -> None:
    assert tokenizer.vocab_size == VOCAB_SIZE == 49408
    # The printable bytes come first, "!" before all of them; at a word's end each has a second one.
    assert tokenizer.encode("!a") == [256, 256 + ord("a") - ord("!")]
    assert tokenizer.encode("!!") == [0, 256]
    assert tokenizer.encode("red") == [512 + 1]
    assert tokenizer.encode("cube's") == [512 + 4, 512 + 5]


def test_words_are_split_as_published(tokenizer: ClipBpe) -> None:
    assert tokenizer.encode("red  CUBE") == tokenizer.encode("Red\ncube") == [513, 516]
    assert tokenizer.encode("12") == [256 + ord("1") - ord("!"), 256 + ord("2") - ord("!")]
    assert tokenizer.encode("red,cube") == [513, 256 + ord(",") - ord("!"), 516]


def test_text_is_tidied_as_theirs_was() -> None:
    assert (
        tidied(" A &amp;amp; B\t\u201cc\u2019s\u201d \ufb01ne \uff21\x07 ") == 'a & b "c\'s" fine a'
    )


def test_texts_come_back(tokenizer: ClipBpe) -> None:
    for text in ("a red cube", "日本 語 💡", "naïve"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([49406, 513, 49407]) == "red"
    with pytest.raises(InputError, match="token id 49408"):
        tokenizer.decode([49408])


def test_streams_have_start_tokens_and_pads(tokenizer: ClipBpe) -> None:
    stream = tokenizer.encode_stream("red cube red cube", slots=4)
    assert stream.ids.tolist() == [49408, 513, 516, 513]
    assert (stream.num_tokens, stream.num_cut) == (3, 1)
    assert tokenizer.encode_stream("red", slots=4).ids.tolist() == [49408, 513, 49410, 49411]
    assert tokenizer.empty_stream(3).tolist() == [49408, 49409, 49410]


def test_the_file_brings_it_back(tokenizer: ClipBpe, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "text_tokenizer.json")
    loaded = load_text_tokenizer(tmp_path / "text_tokenizer.json")
    assert isinstance(loaded, ClipBpe)
    assert loaded.encode("Red cube's") == tokenizer.encode("Red cube's")
    (tmp_path / "short.json").write_text(
        '{"format": 1, "kind": "clip_bpe", "merges": ["a b"]}', encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"short\.json: 1 merges came"):
        load_text_tokenizer(tmp_path / "short.json")


def test_other_files_of_merges_are_refused(merges: str) -> None:
    for wrong, message in (
        ("", "#version"),
        (merges.replace("#version", "version"), "#version"),
        (merges[:1000], "merges came"),
        (merges.replace("\nr e\n", "\nr e d\n"), "a merge is"),
        (merges.replace("\nr e\n", "\nred x\n"), "not those of CLIP"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ClipBpe.from_merges(wrong)
