"""Both orders in one model: what depends on what, and captions against the whole stream."""

import pytest
import torch

from dalle.errors import InputError
from dalle.models.captioning import CaptionDecoder
from dalle.models.dalle import Dalle
from tests.models.test_dalle import PATTERN_NAMES, random_model, random_stream, tiny_config

GRIDS = [(4, 4), (5, 3), (2, 6), (1, 1)]


def both_orders(grid=(4, 4), patterns=tuple(PATTERN_NAMES), **changes):
    return random_model(tiny_config(*grid, patterns=patterns, both_orders=True, **changes))


def first(*rows):
    return torch.tensor(rows, dtype=torch.bool)


@pytest.mark.parametrize("grid", [(4, 4), (2, 6)], ids=str)
@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_text_after_the_picture_reads_all_of_it_and_no_text_to_come(name, grid):
    model = both_orders(grid, patterns=(name,))
    text, codes = random_stream(model.config, batch=1)
    text[0, 3:] = torch.tensor([1, 2])
    before = model(text, codes, first(True)).text[0]
    for token in range(codes.shape[1]):
        changed = codes.clone()
        changed[0, token] = (changed[0, token] + 1) % model.image_vocab
        after = model(text, changed, first(True)).text[0]
        assert (after != before).any(dim=1).all(), token
    for slot in range(1, model.layout.text - 1):
        changed = text.clone()
        changed[0, slot] = (changed[0, slot] + 1) % model.text_vocab
        differs = (model(changed, codes, first(True)).text[0] != before).any(dim=1)
        assert differs.tolist() == [False] * slot + [True] * (model.layout.text - 1 - slot)


def test_each_row_has_its_own_order_and_text_first_is_the_published_one():
    model = both_orders()
    text, codes = random_stream(model.config, batch=4)
    mixed = model(text, codes, first(False, True, False, True))
    published, reversed_ = model(text, codes), model(text, codes, first(*[True] * 4))
    for row in (0, 2):
        torch.testing.assert_close(mixed.text[row], published.text[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mixed.image[row], published.image[row], atol=1e-5, rtol=1e-5)
    for row in (1, 3):
        torch.testing.assert_close(mixed.text[row], reversed_.text[row], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(mixed.text[row], published.text[row], atol=1e-2)


def test_the_option_adds_two_marks_and_leaves_the_published_model_alone():
    torch.manual_seed(3)
    published = Dalle(tiny_config())
    torch.manual_seed(3)
    both = Dalle(tiny_config(both_orders=True))
    mine, other = published.state_dict(), both.state_dict()
    assert set(other) - set(mine) == {"both_orders.marks"}
    assert other["both_orders.marks"].shape == (2, 16)
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    with pytest.raises(InputError, match="text first only"):
        published(*random_stream(published.config, batch=2), first(True, False))


def test_every_parameter_has_a_gradient_whatever_the_orders():
    for rows in (first(False, False), first(True, True)):
        model = both_orders()
        text, codes = random_stream(model.config, batch=2)
        output = model(text, codes, rows)
        (output.text.square().mean() + output.image.square().mean()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("patterns", [(n,) * 3 for n in PATTERN_NAMES] + [tuple(PATTERN_NAMES)])
def test_cached_captions_equal_the_whole_stream(patterns, grid):
    model = both_orders(grid, patterns=patterns)
    samples = 3
    text, _ = random_stream(model.config, batch=2 * samples)
    text[0, 3:] = torch.tensor([1, 2])  # tokens, no pads: only tokens are ever decoded
    _, codes = random_stream(model.config, batch=2, seed=5)
    of_each = codes.repeat_interleave(samples, dim=0)
    decoder = CaptionDecoder(model)
    with torch.no_grad():
        expected = model(text, of_each, first(*[True] * 2 * samples)).text
        cache = decoder.new_cache(pictures=2, samples=samples)
        decoder.prefill(codes, cache)
        for slot in range(decoder.slots):
            logits = decoder.step(text[:, slot], torch.tensor(slot), cache)
            torch.testing.assert_close(logits, expected[:, slot], atol=1e-5, rtol=1e-5)


def test_the_pictures_of_a_prompt_are_kept_once_for_all_of_its_captions():
    decoder = CaptionDecoder(both_orders((5, 3)))
    one, many = (decoder.new_cache(pictures=2, samples=n) for n in (1, 7))
    assert [x.text_keys.shape[0] for x in many.layers] == [2] * 4
    assert one.bytes_per_sample == many.bytes_per_sample == 2 * 4 * decoder.slots * 16 * 4


def test_a_model_of_one_order_writes_no_captions():
    with pytest.raises(InputError, match="--caption-order"):
        CaptionDecoder(random_model(tiny_config()))
