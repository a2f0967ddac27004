"""Text goes through whole; merges are those of `tokenizers`, dropped from our own generator."""

import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dalle.errors import CheckpointError, ConfigError, InputError, SaveError
from dalle.tokenizers.slots import StreamText, apply_long_captions
from dalle.tokenizers.text import BYTES, TextTokenizer

PROMPTS = Path(__file__).parents[1] / "data" / "prompts"
ODD = [
    "",
    " ",
    "  two  spaces \t\n ",
    "<|endoftext|> <pad> [PAD] <s> </s> <unk> <|startoftext|>",
    "قطة على سجادة 🐈\u200d⬛ \u200fחתול על שטיח 👩🏽\u200d🚀🏳️\u200d🌈 \u202eabc\u202c",  # noqa: RUF001
    "Z\u0351\u036b\u0313A\u0334\u0335LGO! cafe\u0301 caf\u00e9 \ufb01 \u2460 \u2167 \uff46\uff55",
    "a \x1b[31mred\x1b[0m car \x07\x08 \x00 \u2028 \ufeff\ufffd",
    "\u0130STANBUL \u1e9e \u0391\u03a3 \u03a3",
    "#version: 0.2",
]


def captions() -> list[str]:
    lines = [text for name in ("parti", "coco-val2017-first") for text in _lines(f"{name}.txt")]
    names = [text for row in _lines("emoji-names-36-languages.tsv") for text in row.split("\t")]
    return lines + names + ODD


def _lines(name: str) -> list[str]:
    return [line for line in (PROMPTS / name).read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def lower() -> TextTokenizer:
    return TextTokenizer.train(captions(), vocab_size=2000)


@pytest.fixture(scope="module")
def cased() -> TextTokenizer:
    return TextTokenizer.train(captions(), vocab_size=2000, lowercase=False)


def test_captions_come_back(lower: TextTokenizer, cased: TextTokenizer) -> None:
    for text in captions():
        assert cased.decode(cased.encode(text)) == text
        assert lower.decode(lower.encode(text)) == text.lower()


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\u0391\u03a3")  # a final sigma: the lower case depends on the neighbours
@example("e\u0301\u200b\r\n\x00")
def test_every_string_comes_back(text: str) -> None:
    for tokenizer in (SMALL, SMALL_CASED):
        expected = text.lower() if tokenizer.lowercase else text
        for ids in (tokenizer.encode(text), tokenizer.encode(text, dropout=0.3, random=Random(1))):
            assert tokenizer.decode(ids) == expected
            assert all(0 <= i < tokenizer.vocab_size for i in ids)


SMALL = TextTokenizer.train(
    ["a red cube on a red cube", "\u0130\u03a3\u03a3\u0130\u03a3"] * 2, vocab_size=280
)
SMALL_CASED = TextTokenizer.train(["a Red cube on a Red cube"] * 2, lowercase=False)


def test_our_merges_equal_those_of_tokenizers(lower: TextTokenizer, cased: TextTokenizer) -> None:
    # The smallest float above 0 never drops anything, but takes the way with dropout.
    random = Random(0)
    for tokenizer in (lower, cased):
        for text in [*captions(), "x" * 300, "abcabcabd" * 30]:
            assert tokenizer.encode(text, dropout=5e-324, random=random) == tokenizer.encode(text)


@settings(max_examples=100, deadline=None)
@given(st.text("abc ", max_size=60))
def test_our_merges_equal_those_of_tokenizers_where_pairs_overlap(text: str) -> None:
    assert OVERLAPS.encode(text, dropout=5e-324, random=Random(0)) == OVERLAPS.encode(text)


def _overlapping() -> TextTokenizer:
    """Merges that compete for letters; the same entry is made in two ways."""
    merges = ["b c", "a b", "a a", "ab c", "a bc", "aa b", "aa aa", "abc abc", "c abc", "ca bc"]
    merges.insert(8, "c a")
    return TextTokenizer([(left, right) for left, right in map(str.split, merges)])


OVERLAPS = _overlapping()


def test_dropout_is_a_function_of_the_generator(lower: TextTokenizer) -> None:
    text = captions()[40]
    one, same = (lower.encode(text, dropout=0.5, random=Random(3)) for _ in range(2))
    assert one == same
    several = {tuple(lower.encode(text, dropout=0.5, random=Random(seed))) for seed in range(20)}
    assert len(several) > 10
    assert lower.encode(text, dropout=1.0, random=Random(0)) == [
        BYTES.index(letter) for letter in _letters(text.lower())
    ]


def _letters(text: str) -> list[str]:
    tokenizer = TextTokenizer([])
    return [BYTES[i] for i in tokenizer.encode(text)]


def test_dropout_leaves_out_the_given_share_of_merges() -> None:
    # One pair, one merge: it is dropped with the given probability, and then nothing comes again.
    tokenizer = TextTokenizer([("a", "b")])
    random = Random(5)
    split = sum(len(tokenizer.encode("ab", dropout=0.1, random=random)) == 2 for _ in range(4000))
    assert 0.08 < split / 4000 < 0.12  # standard deviation 0.005


def test_a_dropped_merge_comes_up_again_after_another() -> None:
    # Nothing is merged with probability p p. Both are when both come through at once, or when "ab"
    # is dropped, "cd" comes through, and "ab" does so at its second chance.
    tokenizer = TextTokenizer([("a", "b"), ("c", "d")])
    random, p = Random(6), 0.5
    lengths = [len(tokenizer.encode("abcd", dropout=p, random=random)) for _ in range(4000)]
    assert lengths.count(4) / 4000 == pytest.approx(p * p, abs=0.03)
    assert lengths.count(2) / 4000 == pytest.approx((1 - p) ** 2 * (1 + p), abs=0.03)


def test_dropout_needs_a_generator_and_a_probability(lower: TextTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"dropout is 0\.1"):
        lower.encode("a", dropout=0.1)
    with pytest.raises(ConfigError, match=r"dropout is 1\.5"):
        lower.encode("a", dropout=1.5, random=Random(0))


@pytest.mark.parametrize(
    "text",
    [
        "x" * 5000,
        ("a very long caption about a house and a tree, " * 3000)[:100_000],
        "".join(Random(0).choices("abcdefg", k=100_000)),
        "a" + "\u0301" * 50_000,
    ],
    ids=["word", "line", "letters", "marks"],
)
def test_long_text_takes_no_quadratic_time(text: str) -> None:
    tokenizer = TextTokenizer.train(["x" * 5000, text[:2000]], vocab_size=600)
    for dropout in (0.0, 0.1):
        start = time.process_time()
        ids = tokenizer.encode(text, dropout=dropout, random=Random(0))
        assert time.process_time() - start < 3  # a tenth of it is usual; quadratic: minutes
        assert tokenizer.decode(ids) == text


def test_a_long_word_is_learned_from_in_no_long_time() -> None:
    start = time.process_time()
    TextTokenizer.train(["".join(Random(0).choices("abcdefg", k=1_000_000))])
    assert time.process_time() - start < 2


def test_lone_surrogates_are_replaced_and_counted(lower: TextTokenizer) -> None:
    text = "a cat \ud83d\ude3a \udc80"
    assert lower.decode(lower.encode(text)) == "a cat \ufffd\ufffd \ufffd"
    assert lower.encode_stream(text, slots=40).num_replaced == 3
    TextTokenizer.train([text])


def test_special_looking_text_stays_text(lower: TextTokenizer) -> None:
    for text in ("<|endoftext|>", "<s>", "[PAD]", "<unk>"):
        ids = lower.encode(text)
        assert len(ids) > 1
        assert lower.decode(ids) == text.lower()


def test_stream_is_start_tokens_and_a_pad_of_each_slot(lower: TextTokenizer) -> None:
    vocab, slots = lower.vocab_size, 12
    tokens = lower.encode("a red cube")
    stream = lower.encode_stream("a Red Cube", slots=slots)
    assert stream.ids.dtype == np.int64
    pads = [vocab + slot for slot in range(1 + len(tokens), slots)]
    assert stream.ids.tolist() == [vocab, *tokens, *pads]
    assert (stream.num_tokens, stream.num_cut) == (len(tokens), 0)
    assert lower.decode_stream(stream.ids) == "a red cube"


def test_stream_of_nothing_is_start_and_pads(lower: TextTokenizer) -> None:
    vocab = lower.vocab_size
    assert lower.empty_stream(3).tolist() == [vocab, vocab + 1, vocab + 2]
    assert lower.encode_stream("", slots=3).ids.tolist() == [vocab, vocab + 1, vocab + 2]
    assert lower.decode_stream(lower.empty_stream(3)) == ""
    with pytest.raises(ConfigError, match="at least 1"):
        lower.empty_stream(0)


def test_stream_cuts_and_counts(lower: TextTokenizer) -> None:
    text = "a photograph of a very large cathedral in the evening sun"
    tokens = lower.encode(text)
    for slots in (1, 2, len(tokens), len(tokens) + 1):
        stream = lower.encode_stream(text, slots=slots)
        assert stream.ids.tolist()[1:] == [*tokens, lower.vocab_size + slots][: slots - 1]
        assert stream.num_tokens == min(slots - 1, len(tokens))
        assert stream.num_cut == len(tokens) - stream.num_tokens


def test_stream_with_dropout_is_cut_after_it(lower: TextTokenizer) -> None:
    stream = lower.encode_stream("a large red cube", slots=30, dropout=0.5, random=Random(2))
    tokens = lower.encode("a large red cube", dropout=0.5, random=Random(2))
    assert stream.ids.tolist()[1 : 1 + stream.num_tokens] == tokens


def test_long_captions_are_cut_left_out_or_refused(lower: TextTokenizer) -> None:
    short, long = (lower.encode_stream(t, slots=4) for t in ("a", "many words do not fit here"))
    assert apply_long_captions(long, "cut", key="7.png") is long
    assert apply_long_captions(long, "leave_out", key="7.png") is None
    total = long.num_tokens + long.num_cut
    with pytest.raises(InputError, match=rf"'7\.png' has {total} tokens; there is room for 3"):
        apply_long_captions(long, "refuse", key="7.png")
    for policy in ("cut", "leave_out", "refuse"):
        assert apply_long_captions(short, policy, key="7.png") is short


def test_ids_outside_the_vocabulary_are_refused(lower: TextTokenizer) -> None:
    for ids in ([-1], [lower.vocab_size]):
        with pytest.raises(InputError, match="token id"):
            lower.decode(ids)
    with pytest.raises(InputError, match="begins with 5"):
        lower.decode_stream([5, 6])


def test_broken_bytes_decode_to_replacement_characters() -> None:
    tokenizer = TextTokenizer([])
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_training_is_bounded_and_deterministic(tmp_path: Path) -> None:
    assert TextTokenizer.train([]).vocab_size == 256
    assert TextTokenizer.train(captions(), vocab_size=300).vocab_size == 300
    with pytest.raises(ConfigError, match="at least 256"):
        TextTokenizer.train(captions(), vocab_size=255)
    script = (
        "import sys, pathlib; from dalle.tokenizers.text import TextTokenizer\n"
        "lines = pathlib.Path(sys.argv[1]).read_text(encoding='utf-8').split('\\n')\n"
        "TextTokenizer.train(lines, vocab_size=1200).save(pathlib.Path(sys.argv[2]))"
    )
    files = []
    for run in range(2):  # other hash seeds, other threads
        file = tmp_path / f"{run}.json"
        subprocess.run(
            [sys.executable, "-c", script, str(PROMPTS / "parti.txt"), str(file)],
            check=True,
            env={"PYTHONHASHSEED": str(run), "RAYON_NUM_THREADS": str(1 + 2 * run)},
            cwd=Path(__file__).parents[2],
        )
        files.append(file.read_bytes())
    assert files[0] == files[1]


def test_ties_are_broken_by_the_order_of_entries() -> None:
    # Both pairs occur twice: the one of lower ids is first, whatever the order of the captions.
    for texts in (["cd ab", "ab cd"], ["ab cd", "cd ab"]):
        tokenizer = TextTokenizer.train(texts, vocab_size=257)
        assert len(tokenizer.encode("ab")) == 1
        assert len(tokenizer.encode("cd")) == 2


def test_a_saved_tokenizer_is_the_same(cased: TextTokenizer, tmp_path: Path) -> None:
    cased.save(tmp_path / "text_tokenizer.json")
    loaded = TextTokenizer.load(tmp_path / "text_tokenizer.json")
    assert (loaded.vocab_size, loaded.lowercase) == (cased.vocab_size, False)
    for text in captions():
        assert loaded.encode(text) == cased.encode(text)
        assert loaded.encode(text, dropout=0.2, random=Random(4)) == cased.encode(
            text, dropout=0.2, random=Random(4)
        )


GOOD = {"format": 1, "kind": "text_tokenizer", "lowercase": True, "merges": ["a b", "ab c"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(GOOD)[:-20], "cut off or damaged"),
        ("", "cut off or damaged"),
        ("[" * 100_000, "cut off or damaged"),
        (b"\xff\xfe", "cut off or damaged"),
        ("[]", "no text tokenizer"),
        (json.dumps({"model": {"type": "BPE"}, "added_tokens": []}), "no text tokenizer"),
        (json.dumps({**GOOD, "kind": "dalle"}), "no text tokenizer"),
        (json.dumps({**GOOD, "format": 2}), "format 2; this version reads 1"),
        (json.dumps({**GOOD, "merges": ["a b", "abc d"]}), "merge 1 joins 'abc' and 'd'"),
        (json.dumps({**GOOD, "merges": ["a b", "a b"]}), "merge 1 repeats"),
        (json.dumps({**GOOD, "merges": ["a b c"]}), "a merge is 'a b c'"),
        (json.dumps({**GOOD, "merges": [7]}), "a merge is '7'"),
        (json.dumps({**GOOD, "merges": {"a": "b"}}), "merges a list"),
        (json.dumps({**GOOD, "lowercase": "yes"}), "lowercase true or false"),
        (json.dumps({**GOOD, "dropout": 1}), "has the fields"),
        (" " * (20 * 2**20 + 1), "at most 20971520"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    content: str | bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "text_tokenizer.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message) as caught:
        TextTokenizer.load(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_are_named(lower: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.json'?: No such file"):
        TextTokenizer.load(tmp_path / "nothing.json")
    with pytest.raises(SaveError, match="cannot write"):
        lower.save(tmp_path / "no folder" / "text_tokenizer.json")


def test_a_good_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "text_tokenizer.json"
    path.write_text(json.dumps(GOOD))
    assert TextTokenizer.load(path).encode("ABC ab") == [257, BYTES.index("Ġ"), 256]


def test_results_are_arrays_of_the_stream(lower: TextTokenizer) -> None:
    assert isinstance(lower.encode_stream("a", slots=5), StreamText)
