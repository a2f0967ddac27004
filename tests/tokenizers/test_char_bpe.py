"""minDALL-E's tokenizer against the library's own, set up as the original sets it up."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import CharBPETokenizer

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.char_bpe import CharBpe

LINES = ["a painting of a cat", "a cat, sitting on the ocean!", "painting the ocean's cat"]
SPECIAL = ["[PAD]", "[UNK]"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A vocabulary and its merges, in the form of the published ones."""
    folder = tmp_path_factory.mktemp("tokenizer")
    learned: Any = CharBPETokenizer(unk_token="[UNK]")
    learned.train_from_iterator(LINES, vocab_size=90, special_tokens=SPECIAL, show_progress=False)
    learned.save_model(str(folder), "bpe-16k")
    return folder / "bpe-16k-vocab.json", folder / "bpe-16k-merges.txt"


@pytest.fixture(scope="module")
def tokenizer(files: tuple[Path, Path]) -> CharBpe:
    return CharBpe.from_files(*(path.read_bytes() for path in files))


@pytest.mark.parametrize(
    "text", [*LINES, "A CAT of Paint", "", "an ünknown [UNK] [PAD] x", "cat " * 30, "日本 cat\tsit"]
)
def test_ids_are_those_of_the_original_set_up(
    files: tuple[Path, Path], tokenizer: CharBpe, text: str
) -> None:
    original: Any = CharBPETokenizer.from_file(
        str(files[0]), str(files[1]), unk_token="[UNK]", lowercase=True, dropout=None
    )
    original.add_special_tokens(["[PAD]"])
    original.enable_padding(length=12, pad_id=original.token_to_id("[PAD]"))
    original.enable_truncation(max_length=12)
    stream = tokenizer.encode_stream(text, slots=12)
    assert stream.ids.tolist() == original.encode(text).ids
    assert stream.num_tokens + stream.num_cut == len(tokenizer.encode(text))


def test_no_caption_is_pads_and_text_comes_back(tokenizer: CharBpe) -> None:
    assert set(tokenizer.empty_stream(5).tolist()) == {tokenizer.pad}
    stream = tokenizer.encode_stream("A cat of the ocean", slots=20)
    assert tokenizer.decode(stream.ids.tolist()) == "a cat of the ocean"
    with pytest.raises(InputError, match="token id -1"):
        tokenizer.decode([-1])


def test_it_comes_back_from_its_file(tokenizer: CharBpe, tmp_path: Path) -> None:
    path = tmp_path / "text_tokenizer.json"
    tokenizer.save(path)
    again = CharBpe.load(path)
    assert (again.vocab_size, again.pad) == (tokenizer.vocab_size, tokenizer.pad)
    assert [again.encode(line) for line in LINES] == [tokenizer.encode(line) for line in LINES]
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "merges": ["a b c"]}))
    with pytest.raises(CheckpointError, match="a merge is 'a b c'"):
        CharBpe.load(path)


def test_files_that_do_not_fit_are_refused(files: tuple[Path, Path]) -> None:
    vocab, merges = (path.read_bytes() for path in files)
    entries = json.loads(vocab)
    without = {entry: number for entry, number in entries.items() if entry != "[PAD]"}
    for damaged, message in (
        (b"{", "no vocabulary"),
        (b"[]", "no table of entries"),
        (json.dumps({"a": 0, "b": 2}).encode(), "are not 0 to 1"),
        (json.dumps({e: i for i, e in enumerate(without)}).encode(), r"no entry \[PAD\]"),
    ):
        with pytest.raises(CheckpointError, match=message):
            CharBpe.from_files(damaged, merges)
    with pytest.raises(CheckpointError, match="expected two entries"):
        CharBpe.from_files(vocab, b"#version: 0.2\na b c\n")
    with pytest.raises(CheckpointError, match="do not fit"):
        CharBpe.from_files(vocab, "ж з\n".encode())
