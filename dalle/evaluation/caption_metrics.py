"""Captions held against those that people wrote: CIDEr-D, BLEU and ROUGE-L.

Words are maximal runs of letters and digits of the lower-cased text in Unicode's composed form;
an apostrophe or a hyphen between two such runs joins them. Everything else separates and is
dropped. The published numbers of COCO come from the Penn Treebank's tokenizer, a Java program,
which also splits contractions ("don't" into two): scores differ a little where captions have them.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from dalle.errors import InputError

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_ORDERS = range(1, 5)
_LENGTH_DEVIATION = 6.0
_ROUGE_BETA = 1.2

Ngrams = Counter[tuple[str, ...]]


def words(caption: str) -> list[str]:
    """The words of a caption, as the head of this file says."""
    return _WORD.findall(unicodedata.normalize("NFC", caption).lower())


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each candidate: how much of what people say of this picture alone is in it.

    For n = 1 to 4 the n-grams of a caption are weighted by count · ln(pictures / pictures whose
    references have it); the similarity is the cosine of two such vectors in which the candidate's
    entries are cut to the reference's, times exp(-(difference in words)² / 72). The score is 10
    times its mean over the references and over n, so it lies between 0 and 10.

    Args:
        candidates: one caption for each picture.
        references: the captions of each picture, at least one; the weights come from all of them,
            so the numbers of two sets of pictures cannot be compared.

    Raises:
        InputError: fewer than two pictures (every weight would be 0), a picture without references,
            or not as many candidates as pictures.

    Source: Vedantam et al., CIDEr (2015), section 6, "CIDEr-D".
    """
    _check(candidates, references)
    if len(references) < 2:
        raise InputError(
            f"CIDEr-D over {len(references)} picture is 0 for every caption: its weights tell "
            "pictures apart; give the whole set at once"
        )
    tokens = [[words(text) for text in texts] for texts in references]
    weights = _Weights(tokens)
    scores = []
    for candidate, others in zip(candidates, tokens, strict=True):
        mine = words(candidate)
        scores.append(10 * sum(weights.similarity(mine, other) for other in others) / len(others))
    return scores


class _Weights:
    """How rare each n-gram is among pictures, and similarity by it."""

    def __init__(self, references: list[list[list[str]]]) -> None:
        self._pictures: Ngrams = Counter()
        for texts in references:
            self._pictures.update({g for text in texts for n in _ORDERS for g in _ngrams(text, n)})
        self._log_num = math.log(len(references))

    def similarity(self, candidate: list[str], reference: list[str]) -> float:
        """Between 0 and 1."""
        difference = len(candidate) - len(reference)
        penalty = math.exp(-(difference**2) / (2 * _LENGTH_DEVIATION**2))
        cosines = (self._cosine(_ngrams(candidate, n), _ngrams(reference, n)) for n in _ORDERS)
        return penalty * sum(cosines) / len(_ORDERS)

    def _cosine(self, candidate: Ngrams, reference: Ngrams) -> float:
        mine, theirs = self._vector(candidate), self._vector(reference)
        norms = math.hypot(*mine.values()) * math.hypot(*theirs.values())
        if norms == 0:
            return 0.0
        return sum(min(v, theirs[g]) * theirs[g] for g, v in mine.items() if g in theirs) / norms

    def _vector(self, ngrams: Ngrams) -> dict[tuple[str, ...], float]:
        return {
            g: count * (self._log_num - math.log(max(1, self._pictures[g])))
            for g, count in ngrams.items()
        }


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]], max_n: int = 4
) -> tuple[float, ...]:
    """Corpus BLEU-1 to BLEU-`max_n`, each between 0 and 1, without smoothing.

    An n-gram counts at most as often as the reference that has it most often. Counts and lengths
    are summed over all pictures before they are divided. The brevity penalty takes the reference
    whose length is nearest, the shorter of two.

    Raises:
        InputError: no pictures, one without references, or not as many candidates as pictures.

    Source: Papineni et al., BLEU (2002), sections 2.2 and 2.3.
    """
    _check(candidates, references)
    right, total = [0] * max_n, [0] * max_n
    length, wanted = 0, 0
    for candidate, texts in zip(candidates, references, strict=True):
        mine, others = words(candidate), [words(text) for text in texts]
        length += len(mine)
        wanted += min((abs(len(o) - len(mine)), len(o)) for o in others)[1]
        for n in range(1, max_n + 1):
            ngrams = _ngrams(mine, n)
            most: Ngrams = Counter()
            for other in others:
                most |= _ngrams(other, n)
            right[n - 1] += (ngrams & most).total()
            total[n - 1] += ngrams.total()
    if 0 in (length, right[0]):
        return (0.0,) * max_n
    brevity = min(0.0, 1 - wanted / length)
    logs = [math.log(r / t) if r else -math.inf for r, t in zip(right, total, strict=True)]
    return tuple(math.exp(brevity + sum(logs[:n]) / n) for n in range(1, max_n + 1))


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each candidate, between 0 and 1: an F-measure of longest common subsequences.

    Precision and recall are each the best over the references, recall weighted by β = 1.2, as in
    the evaluation of COCO's captions.

    Raises:
        InputError: no pictures, one without references, or not as many candidates as pictures.

    Source: Lin, ROUGE (2004), section 3.1.
    """
    _check(candidates, references)
    scores = []
    for candidate, texts in zip(candidates, references, strict=True):
        mine, others = words(candidate), [words(text) for text in texts]
        common = [_longest_common(mine, other) for other in others]
        if not any(common):
            scores.append(0.0)
            continue
        precision = max(common) / len(mine)
        recall = max(c / len(o) for c, o in zip(common, others, strict=True) if o)
        beta = _ROUGE_BETA**2
        scores.append((1 + beta) * precision * recall / (recall + beta * precision))
    return scores


def _longest_common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = row
        row = [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return row[-1]


def _ngrams(tokens: list[str], n: int) -> Ngrams:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(candidates) != len(references) or not candidates:
        raise InputError(
            f"{len(candidates)} captions for {len(references)} pictures; expected one for each"
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise InputError(
                f"picture {index} has {texts!r} for references; give it a list of at least one"
            )
