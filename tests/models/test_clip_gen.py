"""CLIP-GEN's decoder: what its vector reaches, and decoding against the whole stream."""

import pytest
import torch
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.models.clip_gen import ClipGen, ClipGenConfig
from dalle.models.dalle import Dalle, DalleConfig
from tests.fakes import fill_with_noise

PATTERN_NAMES = ("row", "column", "conv", "full")
SIZES = {"image_vocab": 13, "width": 16, "heads": 2, "conv_kernel": 3}


def tiny_config(rows=4, cols=3, patterns=PATTERN_NAMES, **changes):
    return ClipGenConfig(
        **{**SIZES, "vector_size": 6, **changes},
        rows=rows,
        cols=cols,
        depth=len(patterns),
        patterns=patterns,
    )


def random_model(config, seed=0):
    """A model whose every parameter matters; heads start at zero as published."""
    torch.manual_seed(seed)
    model = ClipGen(config).eval()
    fill_with_noise(model, std=0.4)
    return model


def random_stream(config, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(batch, config.vector_size, generator=generator), dim=-1)
    shape = (batch, config.rows * config.cols)
    return vectors, torch.randint(0, config.image_vocab, shape, generator=generator)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("patterns", [(n, n) for n in PATTERN_NAMES] + [PATTERN_NAMES])
def test_cached_decoding_equals_the_whole_stream(patterns, slots):
    config = tiny_config(patterns=patterns, vector_slots=slots)
    model = random_model(config)
    samples, known = 2, 4
    vectors, _ = random_stream(config, batch=3)
    vectors[1] = 0.0  # no condition, beside the others
    _, codes = random_stream(config, batch=3 * samples, seed=2)
    for first in (0, known):
        codes.view(3, samples, -1)[:, :, :first] = codes.view(3, samples, -1)[:, :1, :first]
        with torch.no_grad():
            expected = model(vectors.repeat_interleave(samples, dim=0), codes)
            cache = model.new_cache(prompts=3, samples=samples)
            model.prefill(vectors, codes[::samples, :first], cache)
            start = torch.full((3 * samples,), model.start_of_image)
            for slot in range(first, codes.shape[1]):
                last = codes[:, slot - 1] if slot else start
                logits = model.step(last, torch.tensor(slot), cache)
                torch.testing.assert_close(logits, expected[:, slot], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_every_image_slot_reads_the_vector_and_no_later_code(name):
    config = tiny_config(patterns=(name, name), vector_slots=2)
    model = random_model(config)
    vectors, codes = random_stream(config, batch=2)
    before = model(vectors, codes)
    other = model(vectors.flip(0), codes)
    assert (before != other).any(dim=-1).all()
    changed = codes.clone()
    changed[:, 5] = (changed[:, 5] + 1) % config.image_vocab
    after = model(vectors, changed)
    assert torch.equal(after[:, :6], before[:, :6])
    assert not torch.equal(after[:, 6], before[:, 6])


def test_zeros_are_the_learned_null_and_nothing_else_is():
    model = random_model(tiny_config())
    vectors, codes = random_stream(model.config, batch=2)
    none = model.no_caption(vectors)
    model(none, codes).square().sum().backward()
    assert model.no_vector.grad.abs().sum() > 0
    assert model.project.weight.grad.abs().sum() == 0
    model.zero_grad()
    model(vectors, codes).square().sum().backward()
    assert model.no_vector.grad.abs().sum() == 0
    assert model.project.weight.grad.abs().sum() > 0
    assert model.project.bias.grad.abs().sum() > 0


def test_only_what_stands_before_the_image_differs_from_a_dalle():
    ours = dict(ClipGen(tiny_config()).named_parameters())
    sizes = {**SIZES, "rows": 4, "cols": 3, "depth": 4, "patterns": PATTERN_NAMES}
    dalle = dict(Dalle(DalleConfig(**sizes, text_vocab=11, text_slots=5)).named_parameters())
    shared = {name for name in ours if name in dalle}
    assert set(ours) - shared == {"project.weight", "project.bias", "no_vector"}
    assert {name.partition(".")[0] for name in set(dalle) - shared} == {
        *("text_embedding", "text_position", "text_head"),
    }
    assert all(ours[name].shape == dalle[name].shape for name in shared)


def test_a_projected_vector_starts_as_large_as_an_embedding():
    torch.manual_seed(0)
    model = ClipGen(tiny_config(width=512, vector_size=64, embedding_std=0.4))
    vectors, _ = random_stream(model.config, batch=64)
    assert model.embed_condition(vectors).std().item() == pytest.approx(0.4, rel=0.05)
    assert model.no_vector.std().item() == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("name", ["vector_size", "vector_slots", "image_vocab"])
def test_impossible_sizes_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        tiny_config(**{name: 0})
