"""Nearly right captions: how they differ from the right one, and what they never say."""

from itertools import pairwise
from random import Random

import numpy as np

from dalle.data.shapes import HELD_OUT, ShapesSource, parse_caption
from dalle.errors import InputError
from dalle.tokenizers.text import TextTokenizer
from dalle.training.wrong_captions import EDGE, WrongCaptions

SOURCE = ShapesSource(300, size=32)
CAPTIONS = [caption for number in range(300) for caption in SOURCE[number].captions]
TOKENIZER = TextTokenizer.train(CAPTIONS, vocab_size=512)
WRONG = WrongCaptions.learn(TOKENIZER.encode(caption) for caption in CAPTIONS)
SLOTS = 20


def drawn(caption: str, *, num: int, seed: int = 0) -> list[str]:
    stream = TOKENIZER.encode_stream(caption, slots=SLOTS).ids
    rows = WRONG.draw(stream, num=num, random=Random(seed))
    assert rows.shape == (num, SLOTS)
    assert rows.dtype == stream.dtype
    return [TOKENIZER.decode_stream(row) for row in rows]


def test_neighbours_in_a_wrong_caption_are_neighbours_in_the_data():
    known = {
        pair for caption in CAPTIONS for pair in pairwise([EDGE, *TOKENIZER.encode(caption), EDGE])
    }
    for seed, caption in enumerate(CAPTIONS[:200]):
        for wrong in drawn(caption, num=3, seed=seed):
            assert wrong != caption
            assert set(pairwise([EDGE, *TOKENIZER.encode(wrong), EDGE])) <= known


def test_one_word_differs_or_two_have_changed_places():
    num_exchanged = 0
    for seed, caption in enumerate(CAPTIONS[:200]):
        words = caption.split()
        for wrong in drawn(caption, num=1, seed=seed):
            changed = [(a, b) for a, b in zip(words, wrong.split(), strict=True) if a != b]
            assert len(changed) == 1 or changed[0] == changed[1][::-1]
            num_exchanged += len(changed) == 2
    assert 40 < num_exchanged < 120


def test_combinations_that_the_data_never_shows_are_never_made():
    held_out = {f"{colour} {shape}" for shape, colour in HELD_OUT}
    made = " ".join(wrong for c in CAPTIONS[:300] for wrong in drawn(c, num=2))
    assert not any(pair in made for pair in held_out)


def test_nearly_all_of_them_are_wrong_for_the_picture():
    right = total = 0
    for number in range(200):
        scene = SOURCE.scene(number)
        for wrong in drawn(SOURCE[number].captions[0], num=1, seed=number):
            total += 1
            try:
                right += parse_caption(wrong).canonical == scene.canonical
            except InputError:  # "a ring over a ring over ...": nothing that the picture shows
                continue
    # synonyms, which the data holds too
    assert right / total < 0.25


def test_the_same_seed_gives_the_same_ones():
    assert drawn(CAPTIONS[0], num=4, seed=3) == drawn(CAPTIONS[0], num=4, seed=3)
    assert len({*drawn(CAPTIONS[0], num=4, seed=3), *drawn(CAPTIONS[0], num=4, seed=4)}) > 3


def test_a_caption_without_a_wrong_version_gives_no_text():
    alone = WrongCaptions.learn([[5, 6, 7]])
    stream = np.array([9, 5, 6, 7, 13])
    assert alone.draw(stream, num=2, random=Random(0)).tolist() == [[9, 10, 11, 12, 13]] * 2
    assert drawn("", num=2) == ["", ""]
    assert WrongCaptions.learn([]).draw(stream, num=1, random=Random(0))[0, 1] == 10


def test_pads_stay_where_they_are():
    stream = TOKENIZER.encode_stream(CAPTIONS[0], slots=SLOTS).ids
    rows = WRONG.draw(stream, num=5, random=Random(0))
    pads = stream > TOKENIZER.vocab_size
    assert pads.any()
    assert (rows[:, pads] == stream[pads]).all()
    assert (rows[:, 0] == stream[0]).all()
    assert (rows[:, ~pads][:, 1:] < TOKENIZER.vocab_size).all()
