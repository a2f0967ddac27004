"""Generated pictures against real ones and against their captions, with controls."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dalle.evaluation.captioned_set import CaptionedSet, shuffle_within
from dalle.evaluation.estimates import estimate
from dalle.evaluation.features import Features, features_of
from dalle.evaluation.frechet import frechet_distance, moments
from dalle.evaluation.inception_score import inception_score
from dalle.evaluation.kernel_distances import cmmd, kid
from dalle.evaluation.networks import Encoders, FeatureNetwork
from dalle.evaluation.protocol import Protocol
from dalle.evaluation.report import Better, Row, row
from dalle.evaluation.retrieval import TOP, clip_score, cosines, retrieval
from dalle.evaluation.samples import Drawn, read_picture

Track = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""A stage by name and number of items: what is called with the number just done."""
TEXTS_AT_ONCE = 256
REAL, GENERATED, BEST_OF = "real pictures", "generated pictures", "best of N"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judges:
    """What pictures are judged by."""

    network: FeatureNetwork | None
    """Of FID, KID and the Inception score."""
    clip: FeatureNetwork | None
    """Of CMMD, CLIP scores and retrieval: the picture half of `encoders`."""
    encoders: Encoders | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """An evaluation in progress."""

    chosen: CaptionedSet
    protocol: Protocol
    image_size: tuple[int, int]
    judges: Judges
    out: Path
    track: Track


def real_features(work: Work, network: FeatureNetwork, blur: float = 0.0) -> Features:
    """Of the set's pictures."""
    chosen, count = work.chosen, len(work.chosen.pictures)
    with work.track(f"real pictures, blur {blur:g}", count) as progress:
        return features_of(
            lambda start, stop: chosen.crops(start, stop, work.image_size),
            pictures=f"real {chosen.fingerprint} {work.image_size}",
            count=count,
            network=network,
            blur=blur,
            out=work.out,
            progress=progress,
        )


def generated_features(
    work: Work, network: FeatureNetwork, drawn: list[Drawn], *, best_of: int, blur: float = 0.0
) -> Features:
    """Of the best of the first `best_of` candidates of each caption."""
    place, count = work.protocol.best_of.index(best_of), len(drawn)
    with work.track(f"best of {best_of}, blur {blur:g}", count) as progress:
        return features_of(
            lambda start, stop: [
                read_picture(work.out, i, drawn[i].best[place]) for i in range(start, stop)
            ],
            pictures=f"generated, best of {best_of}",
            count=count,
            network=network,
            blur=blur,
            out=work.out,
            progress=progress,
        )


def text_features(work: Work, encoders: Encoders) -> Float[Tensor, "n e"]:
    """Of all captions, by the CLIP that judges."""
    captions, parts = work.chosen.captions, []
    with torch.inference_mode(), work.track("captions", len(captions)) as progress:
        for start in range(0, len(captions), TEXTS_AT_ONCE):
            part = list(captions[start : start + TEXTS_AT_ONCE])
            parts.append(encoders.encode_texts(part).float().cpu())
            progress(len(part))
    return torch.cat(parts)


def real_rows(work: Work) -> Iterator[Row]:
    """What real pictures get: how far the judging CLIP is to be trusted, and what is reachable."""
    clip, encoders = work.judges.clip, work.judges.encoders
    if clip is not None and encoders is not None:
        texts = text_features(work, encoders)
        images = real_features(work, clip).whole()[list(work.chosen.picture_of)]
        yield from _caption_rows(work, REAL, texts, images, judged=False)
    network = work.judges.network
    if network is not None and network.class_logits is not None:
        real = real_features(work, network)
        yield from _inception_rows(work, REAL, real, suffix=", blur 0", judged=False)


def generated_rows(work: Work, drawn: list[Drawn]) -> Iterator[Row]:
    """Of the pictures that the protocol keeps."""
    network, clip, encoders = work.judges.network, work.judges.clip, work.judges.encoders
    last = work.protocol.best_of[-1]
    if network is not None:
        yield from _distance_rows(work, network, drawn)
    if clip is not None and encoders is not None:
        real = real_features(work, clip).whole()
        images = generated_features(work, clip, drawn, best_of=last).whole()
        value = cmmd(real, images)
        yield row(GENERATED, "CMMD", value, count=len(images), by=clip.label, better="lower")
        for name, (a, b) in _halves(real, images).items():
            yield row(GENERATED, f"CMMD, {name}", cmmd(a, b), count=len(a), by=clip.label)
        texts = text_features(work, encoders)
        yield from _caption_rows(work, GENERATED, texts, images, judged=True)


def best_of_rows(work: Work, drawn: list[Drawn]) -> Iterator[Row]:
    """The same pictures as functions of how many there were to choose from."""
    network, clip, encoders = work.judges.network, work.judges.clip, work.judges.encoders
    texts = text_features(work, encoders) if encoders is not None else None
    real = moments(real_features(work, network).parts()) if network is not None else None
    for n in work.protocol.best_of:
        of, count = f"best of {n}", len(drawn)
        if network is not None and real is not None:
            found = generated_features(work, network, drawn, best_of=n)
            fid = frechet_distance(real, moments(found.parts()))
            yield row(BEST_OF, f"FID, {of}", fid, count=count, by=network.label, better="lower")
            yield from _inception_rows(work, BEST_OF, found, suffix=f", {of}")
        if clip is not None and texts is not None:
            images = generated_features(work, clip, drawn, best_of=n).whole()
            mean = estimate(cosines(texts, images))
            yield row(BEST_OF, f"cosine, {of}", mean, count=count, by=clip.label, better="higher")


def _distance_rows(work: Work, network: FeatureNetwork, drawn: list[Drawn]) -> Iterator[Row]:
    by, count, last = network.label, len(drawn), work.protocol.best_of[-1]
    for blur in work.protocol.blur:
        real = moments(real_features(work, network, blur).parts())
        found = generated_features(work, network, drawn, best_of=last, blur=blur)
        fid = frechet_distance(real, moments(found.parts()))
        yield row(GENERATED, f"FID, blur {blur:g}", fid, count=count, by=by, better="lower")
        yield from _inception_rows(work, GENERATED, found, suffix=f", blur {blur:g}")
    real_all = real_features(work, network).whole()
    all_ = generated_features(work, network, drawn, best_of=last).whole()
    yield row(GENERATED, "KID", kid(real_all, all_), count=count, by=by, better="lower")
    for name, (a, b) in _halves(real_all, all_).items():
        fid = frechet_distance(moments([a]), moments([b]))
        yield row(GENERATED, f"FID, {name}", fid, count=len(a), by=by)
        yield row(GENERATED, f"KID, {name}", kid(a, b), count=len(a), by=by)


def _halves(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"]
) -> dict[str, tuple[Float[Tensor, "half d"], Float[Tensor, "half d"]]]:
    """Real against real pictures, and generated ones of other captions, at equal numbers.

    The generated pictures are of the real ones' captions, so that a whole set is nearer to the
    other than an independent one could be.
    """
    half = min(len(real), len(generated)) // 2
    if half < 2:
        return {}
    first, second, drawn = real[0::2][:half], real[1::2][:half], generated[1::2][:half]
    return {
        "real half against real half": (first, second),
        "generated half against real half": (first, drawn),
    }


def _inception_rows(
    work: Work, section: str, features: Features, *, suffix: str, judged: bool = True
) -> Iterator[Row]:
    network = work.judges.network
    if network is None or network.class_logits is None:
        return
    logits = torch.cat([network.class_logits(part) for part in features.parts()])
    if len(logits) >= work.protocol.splits:
        score = inception_score(logits, splits=work.protocol.splits)
        name = f"Inception score (deviation of {work.protocol.splits} parts){suffix}"
        better = _higher(judged)
        yield row(section, name, score, count=len(logits), by=network.label, better=better)


def _caption_rows(
    work: Work,
    section: str,
    texts: Float[Tensor, "n e"],
    images: Float[Tensor, "n e"],
    *,
    judged: bool,
) -> Iterator[Row]:
    clip, groups, seed = work.judges.clip, work.chosen.groups, work.protocol.seed
    assert clip is not None
    count, better, by = len(texts), _higher(judged), clip.label
    own = cosines(texts, images)
    other = cosines(texts, images[shuffle_within(groups, seed=seed)])
    for name, values, is_control in (
        ("cosine of caption and picture (CapS)", own, False),
        ("cosine, captions shuffled", other, True),
        ("CLIP score, 2.5 max(cosine, 0)", clip_score(own), False),
    ):
        mark = _higher(judged and not is_control)
        yield row(section, name, estimate(values), count=count, by=by, better=mark)
    for k in TOP:
        found = retrieval(texts, images, groups, k=k, seed=seed)
        for name, value, mark in (
            ("caption to picture", found.text_to_image, better),
            ("picture to caption", found.image_to_text, better),
            ("caption to picture, captions shuffled", found.shuffled, _higher(False)),
            ("chance", found.chance, _higher(False)),
        ):
            yield row(section, f"top-{k}, {name}", value, count=count, by=by, better=mark)


def _higher(judged: bool) -> Better:
    return "higher" if judged else ""
