"""The decoder: what each output depends on, and decoding against the whole stream."""

import pytest
import torch
from torch import nn

from dalle.errors import ConfigError
from dalle.models.dalle import Dalle, DalleConfig
from dalle.nn import attention
from dalle.nn.attention import WholeStream, dense_attention
from dalle.nn.masks import Pattern, dense_mask
from tests.fakes import fill_with_noise

GRIDS = [(4, 4), (5, 3), (2, 6)]
PATTERN_NAMES = ["row", "column", "conv", "full"]


def tiny_config(rows=4, cols=4, patterns=("row", "column", "conv", "full"), **changes):
    sizes = {"text_vocab": 11, "image_vocab": 13, "text_slots": 5, "width": 16, "heads": 2}
    return DalleConfig(
        **{**sizes, **changes},
        rows=rows,
        cols=cols,
        depth=len(patterns),
        patterns=patterns,
        conv_kernel=3,
    )


def random_model(config, seed=0):
    """A model whose every parameter matters; heads start at zero as published."""
    torch.manual_seed(seed)
    model = Dalle(config).eval()
    fill_with_noise(model, std=0.4)
    return model


def random_stream(config, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(0, config.text_vocab, (batch, config.text_slots), generator=generator)
    text[:, 0] = config.text_vocab
    text[0, 3:] = config.text_vocab + torch.arange(3, config.text_slots)
    shape = (batch, config.rows * config.cols)
    return text, torch.randint(0, config.image_vocab, shape, generator=generator)


@pytest.mark.parametrize("windows", [False, True], ids=["dense", "windows"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_jacobian_of_one_layer_is_nonzero_exactly_where_the_mask_allows(
    name, grid, windows, monkeypatch
):
    if windows:
        monkeypatch.setattr(attention, "SCORES_WORTH_WINDOWS", -(10**6))
    config = tiny_config(*grid, patterns=(name,))
    attend = WholeStream(config.layer_patterns, config.layout, torch.device("cpu"))
    length = config.layout.length
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 1, length, 4, generator=generator, dtype=torch.float64).unbind(0)

    def layer(keys, values):
        return attend(0, q, keys, values).sum(dim=(0, 1, 3))

    by_key, by_value = torch.autograd.functional.jacobian(layer, (k, v))
    mask = dense_mask(config.layer_patterns[0], config.layout)
    assert torch.equal(by_value.abs().sum(dim=(1, 2, 4)) > 0, mask)
    # A query with a single key has weight 1 whatever the key says.
    more_than_one = mask.sum(dim=1, keepdim=True) > 1
    assert torch.equal(by_key.abs().sum(dim=(1, 2, 4)) > 1e-12, mask & more_than_one)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_perturbing_a_slot_changes_no_output_before_it(name, grid):
    config = tiny_config(*grid, patterns=(name,) * 4)
    model = random_model(config)
    text, codes = random_stream(config, batch=2)
    before = model(text, codes)
    for slot in range(1, config.text_slots):
        changed = text.clone()
        changed[1, slot] = (changed[1, slot] + 1) % config.text_vocab
        after = model(changed, codes)
        assert torch.equal(after.text[:, :slot], before.text[:, :slot])
        assert not torch.equal(after.image[1], before.image[1])
    for token in range(codes.shape[1] - 1):
        changed = codes.clone()
        changed[1, token] = (changed[1, token] + 1) % config.image_vocab
        after = model(text, changed)
        assert torch.equal(after.text, before.text)
        assert torch.equal(after.image[:, : token + 1], before.image[:, : token + 1])
        assert not torch.equal(after.image[1, token + 1], before.image[1, token + 1])
        assert torch.equal(after.image[0], before.image[0])


@pytest.mark.parametrize("known", [0, 1, 6])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("patterns", [(n,) * 4 for n in PATTERN_NAMES] + [tuple(PATTERN_NAMES)])
def test_cached_decoding_equals_the_whole_stream(patterns, grid, known):
    config = tiny_config(*grid, patterns=patterns)
    model = random_model(config)
    text, codes = random_stream(config, batch=2)
    samples = 3
    text_of_each = text.repeat_interleave(samples, dim=0)
    _, codes = random_stream(config, batch=2 * samples, seed=2)
    codes.view(2, samples, -1)[:, :, :known] = codes.view(2, samples, -1)[:, :1, :known]
    with torch.no_grad():
        expected = model(text_of_each, codes).image
        cache = model.new_cache(prompts=2, samples=samples)
        model.prefill(text, codes[::samples, :known], cache)
        start = torch.full((2 * samples,), model.start_of_image)
        for slot in range(known, codes.shape[1]):
            last = codes[:, slot - 1] if slot else start
            logits = model.step(last, torch.tensor(slot), cache)
            torch.testing.assert_close(logits, expected[:, slot], atol=1e-5, rtol=1e-5)


def test_cached_text_equals_the_whole_stream():
    config = tiny_config()
    model = random_model(config)
    text, codes = random_stream(config, batch=2)
    text[0, 3:] = torch.tensor([1, 2])  # tokens, no pads: only tokens are ever decoded
    with torch.no_grad():
        expected = model(text, codes).text
        for prefilled in (0, 2):
            cache = model.new_cache(prompts=2, samples=1)
            if prefilled:
                model.prefill(text[:, :prefilled], codes[:, :0], cache)
            for slot in range(prefilled, config.text_slots - 1):
                logits = model.text_step(text[:, slot], slot, cache)
                torch.testing.assert_close(logits, expected[:, slot], atol=1e-5, rtol=1e-5)


def test_pads_take_no_position_and_tokens_do():
    config = tiny_config()
    model = random_model(config)
    text, codes = random_stream(config, batch=2)  # picture 0 has pads in slots 3 and 4
    before = model(text, codes)
    with torch.no_grad():
        model.text_position.weight[3:, 0] += 1.0  # one entry: the layer norm removes a shift of all
    after = model(text, codes)
    assert torch.equal(before.image[0], after.image[0])
    assert not torch.allclose(before.image[1], after.image[1])


def test_image_slot_takes_the_row_and_column_of_the_token_it_predicts():
    config = tiny_config(2, 6)
    model = random_model(config)
    text, codes = random_stream(config, batch=1)
    before = model(text, codes).image[0]
    with torch.no_grad():
        model.row_embedding.weight[1, 0] += 1.0
    changed = (model(text, codes).image[0] != before).any(dim=1)
    assert changed.tolist() == [False] * 6 + [True] * 6


def test_the_cache_of_a_row_layer_keeps_one_row_and_one_slot():
    config = tiny_config(5, 3)
    cache = random_model(config).new_cache(prompts=1, samples=2)
    kept = [layer.image_keys.shape[0] * layer.image_keys.shape[3] for layer in cache.layers]
    # Row W + 1, column all, of which a step reads one column, conv largest offset + 1, full.
    assert kept == [4, 15, 6, 15]
    assert [layer.slots.stretch for layer in cache.layers] == [4, 5, 6, 15]
    assert cache.bytes_per_sample == sum(kept) * 2 * config.width * 4
    for layer in cache.layers:
        read = layer.stretch(layer.image_keys, layer.at(torch.tensor(7)))
        assert read.shape[2] == layer.slots.stretch and read.is_contiguous()


@pytest.mark.parametrize("width", [3968, 2688, 1920])
def test_block_matrices_of_the_published_widths_have_12_d_squared_parameters(width):
    with torch.device("meta"):
        model = Dalle(
            DalleConfig(
                text_vocab=16384, image_vocab=8192, depth=64, width=width, heads=width // 64
            )
        )
    blocks = model.transformer.blocks
    matrices = [p for p in blocks.parameters() if p.ndim == 2]
    assert sum(p.numel() for p in matrices) == 12 * width**2 * 64
    assert model.layout.length == 1280


def test_the_published_model_runs_on_the_meta_device():
    with torch.device("meta"):
        config = DalleConfig(text_vocab=16384, image_vocab=8192, depth=64, width=3968, heads=62)
        model = Dalle(config)
        text = torch.zeros(1, 256, dtype=torch.long)
        output = model(text, torch.zeros(1, 1024, dtype=torch.long))
    assert output.text.shape == (1, 255, 16385) and output.image.shape == (1, 1024, 8192)
    assert 12.0e9 < sum(p.numel() for p in model.parameters()) < 12.5e9


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    model = Dalle(tiny_config(patterns=("row",) * 8, width=256, heads=4))
    block = model.transformer.blocks[3]
    assert block.qkv.weight.std().item() == pytest.approx(0.125 / 16, rel=0.05)
    assert block.mlp_out.weight.std().item() == pytest.approx(0.125 / 32 / 4, rel=0.05)
    assert not model.image_head.weight.any()
    assert model.text_embedding.weight.std().item() == pytest.approx(0.125 / 16, rel=0.1)
    larger = Dalle(
        tiny_config(patterns=("row",) * 8, width=256, heads=4, init_gain=0.5, embedding_std=0.4)
    )
    assert larger.transformer.blocks[3].qkv.weight.std().item() == pytest.approx(0.5 / 16, rel=0.05)
    assert larger.text_embedding.weight.std().item() == pytest.approx(0.4, rel=0.1)
    output = model(*random_stream(model.config, batch=2))
    assert not output.image.any()  # uniform at the start: the loss is ln(vocabulary)


def test_logits_are_float32_under_autocast():
    model = random_model(tiny_config())
    text, codes = random_stream(model.config, batch=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(text, codes)
    assert output.text.dtype == output.image.dtype == torch.float32


def test_dense_attention_equals_torch_with_a_mask():
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 10, 8, generator=generator).unbind(0)
    mask = dense_mask(Pattern(name="row"), tiny_config(2, 3).layout)[:10, :10]
    expected = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(dense_attention(q, k, v, mask), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "does not divide into 3 heads"),
        ({"text_slots": 1}, "text_slots is 1"),
        ({"image_vocab": 0}, "image_vocab is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_patterns_must_name_every_layer():
    with pytest.raises(ConfigError, match="names 2 layers, the depth is 3"):
        DalleConfig(
            text_vocab=1, image_vocab=1, depth=3, width=4, heads=1, patterns=("row", "full")
        )


def test_fewer_text_logits_are_the_first_of_all() -> None:
    config = tiny_config()
    model, (text, codes) = random_model(config), random_stream(config, 2)
    whole = model(text, codes)
    for wanted in (0, 1, 3, 4):
        part = model(text, codes, text_logits=wanted)
        torch.testing.assert_close(part.text, whole.text[:, :wanted], atol=1e-6, rtol=1e-6)
        assert torch.equal(part.image, whole.image)
