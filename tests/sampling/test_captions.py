"""Captions of pictures, and pictures as evidence for captions, on a tiny random model."""

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.errors import InputError
from dalle.models.captioning import CaptionDecoder
from dalle.sampling.filters import Sampling, draw_token, uniform_table
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.texts import write_captions
from tests.fakes import FlatTokenizer, fill_with_noise, tiny_dalle, tiny_text_tokenizer

GRID = (4, 3)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    text = tiny_text_tokenizer()
    model = tiny_dalle(text, both_orders=True)
    fill_with_noise(model, std=0.3)
    return Pipeline(
        model, text_tokenizer=text, image_tokenizer=FlatTokenizer(vocab_size=16, grid=GRID)
    )


def picture(seed: int) -> Image.Image:
    """Grey squares of random brightness, one for each cell."""
    codes = torch.randint(16, GRID, generator=torch.Generator().manual_seed(seed))
    levels = (codes.float() / 15 * 255).round().to(torch.uint8)
    return Image.fromarray(levels.numpy()).resize((12, 16), Image.Resampling.NEAREST)


@pytest.fixture
def codes(pipeline: Pipeline) -> torch.Tensor:
    return torch.randint(16, (3, 12), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(top_k=9, top_p=0.9)])
def test_each_token_is_drawn_from_the_whole_stream_with_its_own_number(
    pipeline: Pipeline, codes: torch.Tensor, sampling: Sampling
) -> None:
    model, decoder = pipeline.model, CaptionDecoder(pipeline.model)
    picture_of, seeds = [0, 1, 2, 2], [5, 5, 5, 6]
    written = write_captions(
        decoder, codes, picture_of=picture_of, seeds=seeds, sampling=sampling, launch=4
    )
    table = uniform_table(seeds, decoder.slots)
    for i, tokens in enumerate(written):
        stream = torch.tensor([[decoder.start, *tokens, *[0] * 12][:12]])
        with torch.no_grad():
            logits = model(stream, codes[picture_of[i]][None], torch.tensor([True])).text
        asked = [*tokens, decoder.end][: decoder.slots]
        drawn = [
            draw_token(logits[:, slot], table[slot, i : i + 1], sampling)
            for slot in range(len(asked))
        ]
        assert torch.cat(drawn).tolist() == asked


def test_a_caption_depends_on_its_seed_and_picture_alone(pipeline: Pipeline) -> None:
    pictures = [picture(seed) for seed in range(3)]
    together = pipeline.caption_many(pictures, num_samples=7, seed=3)
    assert [len(captions) for captions in together] == [7, 7, 7]
    for image, captions in zip(pictures, together, strict=True):
        assert pipeline.caption(image, num_samples=7, seed=3) == captions
        assert pipeline.caption(image, seed=5) == captions[2:3]
    assert len({tuple(captions) for captions in together}) == 3
    assert len(set(together[0])) > 1
    one, other = (pipeline.caption(pictures[0], seed=s, temperature=0.0) for s in (1, 2))
    assert one == other


def test_a_model_that_was_not_trained_for_it_refuses(pipeline: Pipeline) -> None:
    text = tiny_text_tokenizer()
    plain = Pipeline(
        tiny_dalle(text), text_tokenizer=text, image_tokenizer=pipeline.image_tokenizer
    )
    with pytest.raises(InputError, match="writes no captions of them; take a DALL·E"):
        plain.caption(picture(0))
    with pytest.raises(InputError, match="num_samples is 0"):
        pipeline.caption(picture(0), num_samples=0)


def test_the_score_is_the_sum_of_the_log_probabilities_of_the_codes(pipeline: Pipeline) -> None:
    image, captions = picture(1), ["a red cube", "a table", ""]
    found = pipeline.log_likelihoods(image, captions)
    assert [item.caption for item in found] == captions
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)
    codes = pipeline.image_tokenizer.encode(pixels.expand(1, 3, -1, -1)).flatten()
    for item in found:
        ids = pipeline.text_tokenizer.encode_stream(item.caption, slots=12).ids
        text = torch.from_numpy(ids)[None]
        if not item.caption:
            text = pipeline.model.no_caption(text)
        logits = pipeline.model(text, codes[None]).image[0].detach()
        by_hand = sum(
            (logits[p, code] - logits[p].exp().sum().log()).item() for p, code in enumerate(codes)
        )
        assert item.log_prob == pytest.approx(by_hand, abs=1e-4)
    assert found[2].gain == 0.0 and found[0].gain == found[0].log_prob - found[2].log_prob


def test_the_score_of_a_drawn_picture_is_what_drawing_said(pipeline: Pipeline) -> None:
    for drawn in pipeline.generate("a red cube", num_samples=3, top_k=5):
        [found] = pipeline.log_likelihoods(drawn.image, ["a red cube"])
        assert found.log_prob == pytest.approx(drawn.log_prob, abs=1e-3)
