"""What a model says of captions and pictures that it has not seen, as rows of a report."""

from collections.abc import Iterator

from jaxtyping import Int
from torch import Tensor

from dalle.evaluation.features import features_of
from dalle.evaluation.frechet import frechet_distance, moments
from dalle.evaluation.generated import Work, real_features
from dalle.evaluation.likelihood import likelihood
from dalle.evaluation.reconstruction import Reconstruction, reconstructed, reconstruction
from dalle.evaluation.report import Row, row
from dalle.models.dalle import Dalle
from dalle.sampling.pipeline import Pipeline


def reconstruct(pipeline: Pipeline, work: Work) -> Reconstruction:
    """The set's pictures as codes, and how they survive."""
    with work.track("codes", len(work.chosen.pictures)) as progress:
        return reconstruction(
            pipeline.image_tokenizer, work.chosen, pipeline.model.device, progress=progress
        )


def likelihood_rows(
    pipeline: Pipeline, model: Dalle, work: Work, codes: Int[Tensor, "pictures rows cols"]
) -> Iterator[Row]:
    """Of captions and pictures, beside controls."""
    chosen, count = work.chosen, len(work.chosen.captions)
    with work.track("likelihood", count) as progress:
        found = likelihood(
            model,
            pipeline.text_tokenizer,
            chosen,
            codes,
            seed=work.protocol.seed,
            progress=progress,
        )
    of_text = f"text tokens {found.text_tokens}"
    of_codes = f"image codes {found.image_codes}"
    section = "likelihood, nats per token"
    yield row(section, "text", found.text, count=count, by=of_text, better="lower")
    yield row(section, "text, knowing nothing", found.text_uniform, count=count, by=of_text)
    yield row(section, "image", found.image, count=count, by=of_codes, better="lower")
    for name, value in (
        ("image, captions shuffled", found.shuffled),
        ("image, no caption", found.none),
    ):
        yield row(section, name, value, count=count, by=of_codes)
    name = "gain of the caption over a shuffled one"
    yield row(section, name, found.gain, count=count, by=of_codes, better="higher")
    yield row(section, "image, knowing nothing", found.image_uniform, count=count, by=of_codes)


def reconstruction_rows(pipeline: Pipeline, work: Work, found: Reconstruction) -> Iterator[Row]:
    """Of pictures that have become codes, beside each picture's mean colour."""
    section, count = "reconstruction", len(work.chosen.pictures)
    yield row(section, "PSNR, dB", found.psnr, count=count, better="higher")
    yield row(section, "PSNR, dB, each picture's mean colour", found.flat_psnr, count=count)
    yield row(section, "SSIM", found.ssim, count=count, better="higher")
    yield row(section, "SSIM, each picture's mean colour", found.flat_ssim, count=count)
    book = found.codebook
    codes = f"codes used, of {pipeline.image_tokenizer.vocab_size}"
    yield row(section, codes, float(book.codes_used), count=count)
    yield row(section, "perplexity of the codes", book.perplexity, count=count)
    network = work.judges.network
    if network is None or count < 2:
        return
    codec, device = pipeline.image_tokenizer, pipeline.model.device
    with work.track("reconstructions", count) as progress:
        features = features_of(
            lambda start, stop: reconstructed(codec, found.codes[start:stop], device),
            pictures=f"reconstructions {work.chosen.fingerprint} {work.image_size}",
            count=count,
            network=network,
            blur=0.0,
            out=work.out,
            progress=progress,
        )
    real = moments(real_features(work, network).parts())
    rfid = frechet_distance(real, moments(features.parts()))
    yield row(section, "rFID", rfid, count=count, by=network.label, better="lower")
