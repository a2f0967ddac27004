"""Round trips of a captioned data set, judged by the captions and pictures that it has.

Source: arXiv 2212.12249, section 4.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from dalle.data.split import captions_at
from dalle.errors import DataError
from dalle.evaluation.caption_metrics import cider_d, rouge_l
from dalle.protocols import Sample, Source
from dalle.systems.round_trip.by_rank import ByRank, by_rank
from dalle.systems.round_trip.choose import CaptionCandidate, Choice, PictureCandidate
from dalle.systems.round_trip.parts import Similarity
from dalle.systems.round_trip.trips import Tried, Trip

SEEDS_APART = 10_000
"""From the seed of a sample to that of the next one."""

Take = Callable[[Sample, int, int], Trip]
"""A sample, its number and its seed to what becomes of it."""


def caption_trip(
    choose: Callable[[Image.Image, int], Choice[CaptionCandidate]], judge: Similarity | None
) -> Take:
    """Choosing captions of pictures.

    Args:
        choose: of a picture and a seed.
        judge: compares the candidates with the references; another model than the one that
            chooses.
    """

    def take(sample: Sample, index: int, seed: int) -> Trip:
        candidates = choose(sample.image, seed).candidates
        return Trip(
            index=index,
            key=sample.key,
            references=sample.captions,
            candidates=tuple(
                Tried(
                    captions=(candidate.text,),
                    times=candidate.times,
                    similarities=candidate.similarities,
                    judged=None
                    if judge is None
                    else float(judge.texts(candidate.text, sample.captions).mean()),
                )
                for candidate in candidates
            ),
        )

    return take


def picture_trip(choose: Callable[[str, int], Choice[PictureCandidate]], judge: Similarity) -> Take:
    """Choosing pictures of texts: of each sample's first caption.

    Args:
        choose: of a text and a seed.
        judge: compares the candidates with the sample's own picture.
    """

    def take(sample: Sample, index: int, seed: int) -> Trip:
        candidates = choose(sample.captions[0], seed).candidates
        judged = judge.images(sample.image, [candidate.image for candidate in candidates])
        return Trip(
            index=index,
            key=sample.key,
            references=sample.captions[:1],
            candidates=tuple(
                Tried(
                    captions=candidate.captions,
                    times=candidate.times,
                    similarities=candidate.similarities,
                    judged=alike,
                )
                for candidate, alike in zip(candidates, judged.tolist(), strict=True)
            ),
        )

    return take


def captioned(source: Source, *, most: int | None, seed: int) -> list[int]:
    """The numbers of samples that have a caption, in order; at most `most`, chosen at random.

    Raises:
        DataError: none has.
    """
    order = list(range(len(source)))
    if most is not None and most < len(order):
        Random(f"round trips {seed}").shuffle(order)
    chosen: list[int] = []
    for index in order:
        if len(chosen) == most:
            break
        if captions_at(source, index):
            chosen.append(index)
    if not chosen:
        raise DataError("no picture has a caption; an evaluation needs captioned pictures")
    return sorted(chosen)


def trips(
    source: Source, indices: Sequence[int], take: Take, *, seed: int, skipped: Callable[[str], None]
) -> Iterator[Trip]:
    """Take samples through, one after another.

    Args:
        source: pictures with captions.
        indices: which.
        take: what is done with each.
        seed: sample i has the seed `seed + 10,000 i`, whatever else is taken.
        skipped: told of each sample that cannot be read.

    Raises:
        DataError: a sample holds codes.
    """
    for index in indices:
        try:
            sample = source[index]
        except DataError as error:
            skipped(str(error))
            continue
        if not isinstance(sample, Sample):
            raise DataError(f"{sample.key} holds codes; an evaluation needs pictures")
        yield take(sample, index, seed + SEEDS_APART * index)


def measures(made: Sequence[Trip], *, of_captions: bool, seed: int) -> list[ByRank]:
    """All measures of the candidates, by rank.

    Args:
        made: of `trips`, with as many candidates each, duplicates counted.
        of_captions: whether the candidates are captions: they are then held against the
            references by CIDEr-D, over the whole set, and ROUGE-L.
        seed: of the shuffled controls.

    Raises:
        InputError: there are fewer than two trips.
    """
    ordered = sorted(made, key=lambda trip: trip.index)
    spread = [[c for c in trip.candidates for _ in range(c.times)] for trip in ordered]
    alike = np.array([[c.score for c in row] for row in spread], dtype=float)
    qualities: dict[str, Float[ndarray, "pictures candidates"]] = {}
    if of_captions:
        references = [list(trip.references) for trip in ordered]
        # One caption a picture at a time, as the weights of CIDEr are over pictures.
        columns = [[row[k].captions[0] for row in spread] for k in range(alike.shape[1])]
        qualities["CIDEr-D"] = np.array([cider_d(texts, references) for texts in columns]).T
        qualities["ROUGE-L"] = np.array([rouge_l(texts, references) for texts in columns]).T
    judged = [[c.judged for c in row] for row in spread]
    if judged[0][0] is not None:
        qualities["judge"] = np.array(judged, dtype=float)
    return [by_rank(name, alike, values, seed=seed) for name, values in qualities.items()]


def table(results: Sequence[ByRank]) -> str:
    """The measures as lines of text."""
    ranks = range(len(results[0].by_rank))
    lines = [
        f"{'':10}{'rank 1':>9}{'mean':>9}{'last':>9}{'oracle':>9}{'shuffled':>10}"
        f"{'gain ± error':>19}{'correlation':>13}{'shuffled':>10}"
    ]
    for one in results:
        first, last = one.by_rank[0].value, one.by_rank[-1].value
        error = 0.0 if one.gain.error is None else one.gain.error
        gain = f"{one.gain.value:+.4f} ± {error:.4f}"
        rho = "-" if one.correlation is None else f"{one.correlation.value:+.3f}"
        chance = "-" if one.shuffled_correlation is None else f"{one.shuffled_correlation:+.3f}"
        lines.append(
            f"{one.measure:10}{first:9.4f}{one.mean:9.4f}{last:9.4f}{one.oracle:9.4f}"
            f"{one.shuffled:10.4f}{gain:>19}{rho:>13}{chance:>10}"
        )
    lines += ["", "by rank   " + "".join(f"{rank + 1:9d}" for rank in ranks)]
    lines += [
        f"{one.measure:10}" + "".join(f"{mean.value:9.4f}" for mean in one.by_rank)
        for one in results
    ]
    return "\n".join(lines)
