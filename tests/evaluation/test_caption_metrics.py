"""Scores of captions against values computed by hand; each computation stands beside its case."""

import math
import random

import pytest

from dalle.errors import InputError
from dalle.evaluation.caption_metrics import bleu, cider_d, rouge_l, words


def test_words_are_lower_case_without_punctuation_and_joined_by_apostrophes_and_hyphens():
    assert words("A man's dog, black-and-white; isn't IT?  -Yes-") == [
        "a",
        "man's",
        "dog",
        "black-and-white",
        "isn't",
        "it",
        "yes",
    ]
    assert words("Cafe\u0301 3 \U0001f600 snake_case") == ["caf\xe9", "3", "snake", "case"]
    assert words(" .,! ") == []


def test_cider_d_of_a_right_and_a_half_right_caption():
    # Two pictures, L = ln 2. "a" is said of both: weight ln(2/2) = 0. Every other n-gram of the
    # references is said of one: weight L; so is one that nobody says (counted as said once).
    #
    # First, equal to its reference: cosines 1, 1, 1 for n = 1, 2, 3; no 4-grams, 0.
    #   10 · (1 + 1 + 1 + 0) / 4 = 7.5
    # Second, "a blue cat" for "a blue dog":
    #   n = 1: (blue L, cat L) · (blue L, dog L) / (√2 L · √2 L) = 1/2
    #   n = 2: (a blue, blue cat), (a blue, blue dog): 1/2      n = 3: 0      n = 4: 0
    #   10 · (1/2 + 1/2) / 4 = 2.5
    got = cider_d(["A red cat.", "a blue cat"], [["a red cat"], ["a blue dog"]])
    assert got == pytest.approx([7.5, 2.5])


def test_cider_d_weighs_words_by_how_few_pictures_have_them():
    # Four pictures, L = ln 2: "red" is said of two, ln(4/2) = L; "cat", "dog" of one, ln(4/1) = 2L.
    #   n = 1: (red L, dog 2L) · (red L, cat 2L) / (√5 L · √5 L) = L² / 5 L² = 1/5; n > 1: 0
    #   10 · (1/5) / 4 = 0.5
    references = [["red cat"], ["red dog"], ["blue bird"], ["green fish"]]
    assert cider_d(["red dog", "", "", ""], references) == pytest.approx([0.5, 0, 0, 0])


def test_cider_d_cuts_repetitions_and_punishes_other_lengths():
    # L = ln 2. n = 1: the candidate's 3L is cut to the reference's L in the product, not in the
    # norm: min(3L, L) · L / (3L · L) = 1/3. The reference has no longer n-grams. Two words too
    # many: exp(-2² / (2 · 6²)) = exp(-1/18).
    #   10 · (1/3) / 4 · exp(-1/18) = 5/6 · exp(-1/18)
    got = cider_d(["cat cat cat", "dog"], [["cat"], ["dog"]])
    assert got == pytest.approx([5 / 6 * math.exp(-1 / 18), 2.5])


def test_cider_d_is_the_mean_over_references_which_count_as_one_picture():
    # "cat" is said twice of the first picture, which is one picture of two: weight ln 2 = L, and
    # "the", "sleeps", "cat sleeps", "the cat", ... likewise.
    # Against "cat sleeps": equal: cosines 1, 1, 0, 0: 2/4.
    # Against "the cat": n = 1: L² / (√2 L · √2 L) = 1/2; n = 2: 0: (1/2)/4 = 1/8.
    #   10 · (1/2 + 1/8) / 2 = 3.125
    references = [["cat sleeps", "the cat"], ["a dog"]]
    assert cider_d(["cat sleeps", "bird"], references) == pytest.approx([3.125, 0])


def test_cider_d_agrees_with_the_formula_written_out_over_all_ngrams():
    generator = random.Random(0)

    def sentence() -> str:
        return " ".join(generator.choices("abcdefg", k=generator.randint(1, 9)))

    references = [[sentence() for _ in range(generator.randint(1, 4))] for _ in range(6)]
    candidates = [sentence() for _ in references]

    def grams(text: str, n: int) -> list[str]:
        tokens = text.split()
        return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    def weights(text: str, n: int, vocabulary: list[str]) -> list[float]:
        frequency = [
            sum(any(g in grams(text, n) for text in texts) for texts in references)
            for g in vocabulary
        ]
        return [
            grams(text, n).count(g) * math.log(len(references) / max(1, f))
            for g, f in zip(vocabulary, frequency, strict=True)
        ]

    for got, candidate, texts in zip(
        cider_d(candidates, references), candidates, references, strict=True
    ):
        total = 0.0
        for text in texts:
            for n in range(1, 5):
                vocabulary = sorted(set(grams(candidate, n)) | set(grams(text, n)))
                a, b = weights(candidate, n, vocabulary), weights(text, n, vocabulary)
                norms = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
                dot = sum(min(x, y) * y for x, y in zip(a, b, strict=True))
                gap = len(candidate.split()) - len(text.split())
                total += 10 * (dot / norms if norms else 0) * math.exp(-gap * gap / 72) / 4
        assert got == pytest.approx(total / len(texts))


def test_bleu_counts_a_word_as_often_as_one_reference_has_it():
    # The example of the paper's section 2.1: "the" 7 times, at most 2 in one reference: 2/7; no
    # bigram is right. Lengths 7 against 6 and 7: the nearest is 7, no penalty.
    got = bleu(["the " * 7], [["the cat is on the mat", "there is a cat on the mat"]], max_n=2)
    assert got == pytest.approx((2 / 7, 0))


def test_bleu_multiplies_precisions_and_punishes_brevity():
    # Lengths 2 + 3 against 4 + 3, penalty exp(1 - 7/5). Words right: 2 + 2 of 5. Bigrams: 1 + 1
    # ("the cat"; "a dog") of 1 + 2. Trigrams: 0 of 1.
    got = bleu(["the cat", "a dog ran"], [["the cat sat down"], ["a dog sat"]], max_n=3)
    penalty = math.exp(1 - 7 / 5)
    assert got == pytest.approx((penalty * 4 / 5, penalty * math.sqrt(4 / 5 * 2 / 3), 0))


def test_bleu_takes_the_shorter_of_two_references_that_are_equally_near():
    assert bleu(["a b"], [["a b c", "a"]], max_n=1) == pytest.approx((1.0,))
    assert len(bleu(["a b c d e"], [["a b c d e"]])) == 4
    assert bleu(["a b c d e"], [["a b c d e"]])[3] == pytest.approx(1)
    assert bleu([""], [["a"]]) == (0, 0, 0, 0)


def test_rouge_l_is_an_f_measure_of_the_longest_common_subsequence():
    # Common subsequences of 3 (police the gunman) and 2 (the gunman) of 4 words on both sides.
    reference = ["police killed the gunman"]
    got = rouge_l(["police kill the gunman", "the gunman kill police"], [reference, reference])
    assert got == pytest.approx([3 / 4, 1 / 2])
    # Precision 2/2, recall 2/4, β² = 1.44: 2.44 · 0.5 / (0.5 + 1.44).
    assert rouge_l(["a b"], [["a b c d"]]) == pytest.approx([1.22 / 1.94])
    # Precision from the one reference (2/3), recall from the other (1/1).
    got = rouge_l(["a x b"], [["a b c d", "x"]])
    assert got == pytest.approx([2.44 * (2 / 3) / (1 + 1.44 * 2 / 3)])
    assert rouge_l(["", "a"], [["a"], ["?"]]) == [0, 0]


@pytest.mark.parametrize("metric", [cider_d, bleu, rouge_l])
def test_what_does_not_fit_is_refused(metric):
    with pytest.raises(InputError, match="1 captions for 2 pictures"):
        metric(["a"], [["a"], ["b"]])
    with pytest.raises(InputError, match="picture 1 has"):
        metric(["a", "b"], [["a"], []])
    with pytest.raises(InputError, match="picture 0 has 'ab'"):
        metric(["a", "b"], ["ab", ["b"]])


def test_cider_d_of_one_picture_is_refused_because_it_would_be_zero():
    with pytest.raises(InputError, match="over 1 picture is 0"):
        cider_d(["a cat"], [["a cat"]])
