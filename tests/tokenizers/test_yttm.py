# ruff: noqa: RUF001 - the letters are Cyrillic
"""Models of YouTokenToMe, and ru-DALL·E's captions in them."""

from pathlib import Path
from random import Random

import pytest

from dalle.errors import CheckpointError, InputError
from dalle.tokenizers.rudalle_captions import RudalleCaptions
from dalle.tokenizers.yttm import MARK, YttmModel

CHARACTERS = {MARK: 4, "к": 5, "о": 6, "т": 7, "и": 8, "p": 9}
MERGES = [(5, 6, 10), (10, 7, 11), (4, 11, 12), (8, 5, 13), (6, 7, 14), (7, 7, 15)]
"""ко, кот, ▁кот, ик, от, тт"""
FILE = (
    f"{len(CHARACTERS)} {len(MERGES)}\n"
    + "".join(f"{ord(character)} {number}\n" for character, number in CHARACTERS.items())
    + "".join(f"{left} {right} {joined}\n" for left, right, joined in MERGES)
    + "1 0 2 3\n"
)


def naively(word: str) -> list[int]:
    """One merge at a time: of all that apply the earliest, and of these the leftmost."""
    symbols: list[int] = [CHARACTERS[MARK]]
    for letter in word:
        number = CHARACTERS.get(letter, 1)
        if number != 1 or symbols[-1] != 1:
            symbols.append(number)
    ranks = {(left, right): rank for rank, (left, right, _) in enumerate(MERGES)}
    while True:
        pairs = [(ranks.get(pair, 99), i) for i, pair in enumerate(zip(symbols, symbols[1:]))]  # noqa: B905, RUF007
        rank, place = min(pairs, default=(99, 0))
        if rank == 99:
            return symbols
        symbols[place : place + 2] = [MERGES[rank][2]]


def test_words_are_joined_by_the_earliest_merge_and_then_the_leftmost() -> None:
    model = YttmModel(FILE)
    assert model.encode("кот") == [12]
    assert model.encode("котик ттт") == [12, 13, 4, 15, 7]
    random = Random(0)
    for _ in range(300):
        word = "".join(random.choices("котиpх", k=random.randint(1, 12)))
        assert model.encode(word) == naively(word)


def test_spaces_are_those_of_the_original_and_unknown_letters_run_together() -> None:
    model = YttmModel(FILE)
    assert model.encode(f" \t кот\n{MARK}кот\r\f\v ") == [12, 12]
    assert model.encode("") == model.encode(" \n") == []
    assert model.encode("кххохт") == [4, 5, 1, 6, 1, 7]
    assert model.encode("к\u00a0о") == [4, 5, 1, 6]  # no space there: C's isspace is of ASCII


def test_decoding_puts_spaces_where_words_begin() -> None:
    model = YttmModel(FILE)
    assert model.decode(model.encode("кот  котик")) == "кот котик"
    assert model.decode([2, 12, 1, 3, 0]) == "кот"
    with pytest.raises(InputError, match=r"token id 16; expected one in \[0, 16\)"):
        model.decode([16])


def test_a_caption_lies_between_start_and_end() -> None:
    captions = RudalleCaptions.from_model(FILE.encode())
    assert captions.vocab_size == 16
    stream = captions.encode_stream(" Кот КОТ ", slots=6)
    assert stream.ids.tolist() == [2, 12, 12, 3, 0, 0]
    assert (stream.num_tokens, stream.num_cut) == (2, 0)
    assert captions.empty_stream(4).tolist() == [2, 3, 0, 0]
    long = captions.encode_stream("кот кот кот кот", slots=3)
    assert long.ids.tolist() == [2, 12, 12] and (long.num_tokens, long.num_cut) == (2, 2)


def test_captions_come_back_from_their_file(tmp_path: Path) -> None:
    captions = RudalleCaptions.from_model(FILE.encode())
    path = tmp_path / "text_tokenizer.json"
    captions.save(path)
    again = RudalleCaptions.load(path)
    assert again.encode("Котик ттт p") == captions.encode("Котик ттт p")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (FILE[:-8], "ends too early"),
        (FILE.replace("5 6 10", "5 6 x"), "'x' stands where a number should"),
        (FILE.replace("10 7 11", "19 7 11"), "merge 1 joins 19 and 7 to 11"),
        (FILE.replace("10 7 11", "10 7 10"), "merge 1 joins 10 and 7 to 10"),
        (FILE.replace(f"{ord(MARK)} 4", "55296 4"), "55296 is no character"),
        (FILE.replace(f"{ord(MARK)} 4", "97 4"), "one for the mark"),
        (FILE.replace("1 0 2 3", "1 0 2 20"), "ids are not 0 to 15"),
        (FILE.replace("1 0 2 3", "0 1 2 3"), r"begin and end are \(1, 0, 2, 3\)"),
        ("пфф", "no model of YouTokenToMe"),
    ],
)
def test_damaged_models_are_refused(damage: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        RudalleCaptions.from_model(damage.encode())


def test_entries_that_grow_without_end_are_refused() -> None:
    doubling = "".join(f"{n} {n} {n + 1}\n" for n in range(4, 40))
    with pytest.raises(CheckpointError, match="makes an entry of 1024 letters"):
        YttmModel(f"1 36\n{ord(MARK)} 4\n{doubling}1 0 2 3\n")
