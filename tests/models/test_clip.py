"""Our dual encoder: what its vectors depend on, and what its config allows."""

import math

import pytest
import torch

from dalle.config import from_json, to_json
from dalle.errors import ConfigError, InputError
from dalle.models.clip import Clip, ClipConfig, TowerConfig

VOCAB, SLOTS = 40, 9
TOWER = TowerConfig(width=24, depth=2, heads=3)
SIZES = {
    "stem and summary": {"stem": (8,), "patch": 4},
    "plain vision transformer": {"stem": (), "patch": 8},
    "flat, texts mixed": {
        "stem": (8, 12),
        "patch": 2,
        "readout": "flat",
        "vision": TowerConfig(depth=0),
        "text_kernel": 5,
    },
    "flat after a transformer": {"stem": (8,), "patch": 4, "readout": "flat"},
}


def config(**changes: object) -> ClipConfig:
    fields: dict = {
        "image_height": 24,
        "image_width": 40,
        "text_vocab": VOCAB,
        "text_slots": SLOTS,
        "embed_dim": 16,
        "vision": TOWER,
        "text": TOWER,
    }
    return ClipConfig(**fields | changes)


def clip(seed: int = 0, **changes: object) -> Clip:
    torch.manual_seed(seed)
    return Clip(config(**changes)).eval()


def texts(lengths: list[int], slots: int = SLOTS) -> torch.Tensor:
    """Random texts of so many tokens in the slots of the stream."""
    ids = torch.arange(VOCAB, VOCAB + slots).repeat(len(lengths), 1)
    for row, length in zip(ids, lengths, strict=True):
        row[1 : 1 + length] = torch.randint(0, VOCAB, (length,))
    return ids


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def any_clip(request: pytest.FixtureRequest) -> Clip:
    return clip(**request.param)


def test_vectors_have_unit_length_and_pictures_need_not_be_square(any_clip: Clip):
    output = any_clip(torch.rand(3, 3, 24, 40), texts([0, 5, 8, 1]))
    assert output.image_features.shape == (3, 16)
    assert output.text_features.shape == (4, 16)
    for features in (output.image_features, output.text_features):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


def test_a_batch_is_as_many_single_ones(any_clip: Clip):
    images, tokens = torch.rand(3, 3, 24, 40), texts([2, 8, 4])
    together = any_clip(images, tokens)
    for number in range(3):
        alone = any_clip(images[number : number + 1], tokens[number : number + 1])
        for name in ("image_features", "text_features"):
            expected = getattr(together, name)[number : number + 1]
            torch.testing.assert_close(getattr(alone, name), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 5])
def test_what_stands_in_the_pad_slots_changes_nothing(kernel: int):
    model, tokens = clip(text_kernel=kernel), texts([3, 0, 7])
    others = tokens.clone()
    others[tokens > VOCAB] = VOCAB + 3
    assert not torch.equal(others, tokens)
    assert torch.equal(model.encode_text(others), model.encode_text(tokens))


@pytest.mark.parametrize("kernel", [1, 5])
def test_how_many_pad_slots_there_are_changes_nothing(kernel: int):
    model, tokens = clip(text_kernel=kernel), texts([3, 0, 4])
    torch.testing.assert_close(model.encode_text(tokens[:, :5]), model.encode_text(tokens))


def test_every_token_and_its_place_matter():
    model, tokens = clip(), texts([4])
    before = model.encode_text(tokens)
    for slot in range(1, 5):
        changed = tokens.clone()
        changed[0, slot] = (changed[0, slot] + 1) % VOCAB
        assert not torch.allclose(model.encode_text(changed), before, atol=1e-4)
    tokens[0, 1:5] = torch.tensor([7, 8, 7, 9])
    swapped = tokens[:, [0, 2, 1, 3, 4, 5, 6, 7, 8]]
    assert not torch.allclose(model.encode_text(swapped), model.encode_text(tokens), atol=1e-4)


def test_every_pixel_and_its_place_matter(any_clip: Clip):
    images = torch.rand(1, 3, 24, 40).requires_grad_()
    any_clip.encode_image(images)[0, 0].backward()
    assert images.grad is not None
    assert (images.grad != 0).all()
    still, moved = any_clip.encode_image(images), any_clip.encode_image(images.roll(8, dims=3))
    assert not torch.allclose(still, moved, atol=1e-4)


def test_reading_only_the_first_position_is_reading_the_first_of_all():
    encoder = clip().text.encoder
    stream, real = torch.randn(2, SLOTS, 24), torch.arange(SLOTS).expand(2, -1) < 6
    torch.testing.assert_close(encoder.read_first(stream, real), encoder(stream, real)[:, 0])


def test_the_logit_scale_begins_at_the_published_value_and_never_passes_100():
    model = clip()
    inputs = torch.rand(1, 3, 24, 40), texts([1])
    assert model(*inputs).logit_scale.item() == pytest.approx(1 / 0.07)
    model.logit_scale.data.fill_(9.0)
    assert model(*inputs).logit_scale.item() == pytest.approx(100.0)


def test_vectors_are_float32_when_the_model_computes_in_bfloat16():
    with torch.autocast("cpu", torch.bfloat16):
        output = clip()(torch.rand(2, 3, 24, 40), texts([3, 2]))
    assert output.image_features.dtype == output.text_features.dtype == torch.float32
    torch.testing.assert_close(output.text_features.norm(dim=1), torch.ones(2))


def test_all_parameters_learn(any_clip: Clip):
    output = any_clip(torch.rand(2, 3, 24, 40), texts([3, 2]))
    similar = output.logit_scale * output.image_features @ output.text_features.mT
    similar.log_softmax(1).diagonal().sum().backward()
    still = [n for n, p in any_clip.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_config_survives_json():
    original = config(stem=(8, 12), readout="flat", patch=2, vision=TowerConfig(depth=0))
    assert from_json(ClipConfig, to_json(original)) == original


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_width": 42}, "image_width is 42, which 8"),
        ({"stem": (8, 8, 8), "patch": 2}, "image_height is 24, which 16"),
        ({"stem": (8, 0)}, "stem is 0"),
        ({"text_slots": 1}, "text_slots is 1"),
        ({"text_kernel": 4}, "text_kernel is 4; expected an odd number"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"vision": TowerConfig(depth=0)}, "vision.depth is 0; expected at least 1 with"),
        ({"text": TowerConfig(depth=0), "readout": "flat"}, "text.depth is 0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        config(**{"stem": (8,), "patch": 4} | changes)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="width 10 cannot be split over 4 heads"):
        TowerConfig(width=10, heads=4)


def test_inputs_that_do_not_fit_are_refused():
    model = clip()
    with pytest.raises(InputError, match=r"40 x 24 pixels .* for 24 x 40"):
        model.encode_image(torch.rand(1, 3, 40, 24))
    with pytest.raises(InputError, match="10 slots came to a CLIP with 9"):
        model.encode_text(texts([2], slots=SLOTS + 1))


def test_the_initial_scale_is_that_of_the_publication():
    assert math.exp(clip().logit_scale.item()) == pytest.approx(14.2857, abs=1e-3)
