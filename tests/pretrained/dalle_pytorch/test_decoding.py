"""Decoding through the cache equals the whole stream, for every kind of layer and every option."""

from typing import Any

import pytest
import torch

from dalle.pretrained.dalle_pytorch.config import DallePytorchConfig
from dalle.pretrained.dalle_pytorch.model import DallePytorch
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling
from dalle.sampling.texts import complete_text
from tests.fakes import fill_with_noise

KINDS = ("full", "axial_row", "axial_col", "conv_like", "conv_like_old", "sparse")
OPTIONS: list[dict[str, Any]] = [
    {"rotary": True, "token_shift": True, "sandwich": True},
    {"rotary": True, "stable": True, "tied": True},
    {"token_shift": True, "reversible": True, "attention_of": (0, 1, 0), "mlp_of": (0, 0, 1)},
    {"sandwich": True, "stable": True, "reversible": True},
]
TABLE = ("#..", ".#.", ".##")
"""The text lies in the first two blocks of slots, of which the second does not read the first, and
the image in the last two."""


def random_model(kind: str, **options: Any) -> DallePytorch:
    torch.manual_seed(0)
    kinds = (kind, "full", kind)
    config = DallePytorchConfig(
        **{
            "text_vocab": 11,
            "text_tokens": 18,
            "image_vocab": 13,
            "rows": 5,
            "cols": 6,
            "width": 16,
            "heads": 2,
            "head_width": 12,
            "attention": kinds,
            "attention_of": (0, 1, 2),
            "mlp_of": (0, 1, 2),
            "block_tables": (TABLE,) * kinds.count("sparse"),
            **options,
        }
    )
    model = DallePytorch(config).eval()
    fill_with_noise(model, std=0.5)
    return model


def texts_of(model: DallePytorch, count: int = 2) -> torch.Tensor:
    slots, vocab = model.layout.text, model.text_vocab
    texts = torch.randint(1, vocab, (count, slots), generator=torch.Generator().manual_seed(1))
    texts[:, 0] = vocab
    texts[0, 9:] = vocab + torch.arange(9, slots)
    return texts


@pytest.mark.parametrize("known", [0, 1, 8])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_equals_the_whole_stream(
    kind: str, options: dict[str, Any], known: int
) -> None:
    model = random_model(kind, **options)
    samples, texts = 2, texts_of(model)
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 13, (2 * samples, model.layout.image), generator=generator)
    codes.unflatten(0, (2, samples))[:, :, :known] = codes[::samples, None, :known]
    with torch.no_grad():
        expected = model(texts.repeat_interleave(samples, dim=0), codes).image
        cache = model.new_cache(prompts=2, samples=samples)
        model.prefill(texts, codes[::samples, :known], cache)
        for slot in range(known, model.layout.image):
            last = codes[:, slot - 1] if slot else torch.full((4,), model.start_of_image)
            logits = model.step(last, torch.tensor(slot), cache)
            torch.testing.assert_close(logits, expected[:, slot], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_codes_are_the_argmax_of_the_whole_stream(kind: str) -> None:
    model = random_model(kind, **OPTIONS[0])
    texts = texts_of(model)
    sampling = Sampling(temperature=0.0, guidance=2.0)
    codes = sample_codes(model, texts, prompt_of=[0, 1], seeds=[0, 0], sampling=sampling).codes
    codes = codes.flatten(1)
    with torch.no_grad():
        conditional = model(texts, codes).image
        null = model(model.no_caption(texts), codes).image
    assert torch.equal((null + 2.0 * (conditional - null)).argmax(-1), codes)
    assert not torch.equal(conditional.argmax(-1), codes)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("kind", ["full", "sparse"])
def test_cached_text_equals_the_whole_stream(kind: str, options: dict[str, Any]) -> None:
    model = random_model(kind, **options)
    texts = texts_of(model)
    vocab, slots = model.text_vocab, model.layout.text
    codes = torch.zeros(2, model.layout.image, dtype=torch.long)
    with torch.no_grad():
        whole = model(texts, codes).text
        for prefilled in (0, 3):
            cache = model.new_cache(prompts=2, samples=1)
            if prefilled:
                model.prefill(texts[:, :prefilled], codes[:, :0], cache)
            for slot in range(prefilled, slots - 1):
                logits = model.text_step(texts[:, slot], slot, cache)
                expected = torch.cat([whole[:, slot, :vocab], whole[:, slot, [vocab + slot]]], 1)
                torch.testing.assert_close(logits[:, 1:], expected[:, 1:], atol=1e-4, rtol=1e-4)
                assert (logits[:, 0] == float("-inf")).all()


def test_texts_go_on_and_end() -> None:
    model = random_model("full", rotary=True)
    rows = complete_text(model, [3], seeds=list(range(30)), sampling=Sampling())
    assert all(row[0] == 3 and 0 not in row for row in rows)
    assert len({len(row) for row in rows}) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_changes_nothing_before_it(kind: str) -> None:
    model = random_model(kind, **OPTIONS[0])
    texts = texts_of(model)
    codes = torch.zeros(2, model.layout.image, dtype=torch.long)
    with torch.no_grad():
        before = model(texts, codes)
        for token in (0, 7, 20):
            changed = codes.clone()
            changed[:, token] = 5
            after = model(texts, changed)
            assert torch.equal(after.text, before.text)
            assert torch.equal(after.image[:, : token + 1], before.image[:, : token + 1])
            assert not torch.equal(after.image[:, token + 1], before.image[:, token + 1])
        changed = texts.clone()
        changed[:, 4] = 7
        assert torch.equal(model(changed, codes).text[:, :4], before.text[:, :4])


def test_entry_0_of_the_vocabulary_counts_as_no_token() -> None:
    model = random_model("full")
    texts = texts_of(model)
    codes = torch.zeros(2, model.layout.image, dtype=torch.long)
    zeroed = texts.clone()
    zeroed[0, 9:] = 0
    with torch.no_grad():
        assert torch.equal(model(zeroed, codes).image, model(texts, codes).image)
