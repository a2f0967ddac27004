"""The discrete VAE: published sizes, codes as lookups, any shape."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from dalle.errors import ConfigError
from dalle.models.dvae import (
    Dvae,
    DvaeConfig,
    Likelihood,
    map_images,
    psnr,
    reconstruction_nll,
)
from dalle.nn.convs import Conv, DecoderBlock, EncoderBlock, Float32Conv


def small(**changes: Any) -> DvaeConfig:
    sizes: dict[str, Any] = {"image_height": 24, "image_width": 16, "num_codes": 20, "hidden": 8}
    sizes |= {"groups": 3}
    return DvaeConfig(**{**sizes, "blocks": 1, "downsampling": 4, "embed_dim": 12, **changes})


@pytest.fixture
def model() -> Dvae:
    torch.manual_seed(0)
    return Dvae(small()).eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("codes", "encoder", "decoder"),
    [
        (8192, 53_786_240, 43_829_766),
        (1024, 53_786_240 - 7168 * 2049, 43_829_766 - 7168 * 128),
    ],
)
def test_full_size_has_the_published_number_of_parameters(
    codes: int, encoder: int, decoder: int
) -> None:
    with torch.device("meta"):
        model = Dvae(DvaeConfig(num_codes=codes))
    assert (count(model.encoder), count(model.decoder)) == (encoder, decoder)
    images = torch.empty(1, 3, 256, 256, device="meta")
    logits = model.encode_logits(images)
    assert logits.shape == (1, codes, 32, 32)
    assert model.decode(logits).shape == (1, 6, 256, 256)


def test_layers_stand_in_the_published_order() -> None:
    with torch.device("meta"):
        model = Dvae(DvaeConfig())
    kinds = [type(layer).__name__ for layer in model.encoder]
    group = ["EncoderBlock", "EncoderBlock", "MaxPool2d"]
    assert kinds == ["Conv", *group * 3, *group[:2], "ReLU", "Float32Conv"]
    kinds = [type(layer).__name__ for layer in model.decoder]
    group = ["DecoderBlock", "DecoderBlock", "Upsample"]
    assert kinds == ["Float32Conv", *group * 3, *group[:2], "ReLU", "Conv"]
    blocks = [m for m in model.modules() if isinstance(m, EncoderBlock | DecoderBlock)]
    assert {block.gain for block in blocks} == {1 / 64}
    first = model.encoder[0]
    assert isinstance(first, Conv) and first.kernel_size == (7, 7)


def test_codes_decode_as_their_one_hot(model: Dvae) -> None:
    codes = torch.randint(0, 20, (3, 6, 4), generator=torch.Generator().manual_seed(1))
    one_hot = torch.nn.functional.one_hot(codes, 20).movedim(-1, 1).float()
    assert torch.equal(model.decode_codes(codes), model.decode(one_hot))


def test_the_two_layers_at_the_relaxation_stay_float32(model: Dvae) -> None:
    inside = [m for m in model.modules() if isinstance(m, Float32Conv)]
    assert inside == [model.encoder[-1], model.decoder[0]]
    images = torch.rand(1, 3, 24, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, 1.0)
    assert output.logits.dtype == output.decoded.dtype == torch.float32


def test_cold_training_pass_is_the_pass_through_codes(model: Dvae) -> None:
    with torch.no_grad():
        # Sure of every code, so that the noise chooses none.
        model.encoder[-1].get_parameter("weight").mul_(1000)
        images = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(0))
        output = model(images, 0.02)
        codes = output.logits.argmax(dim=1)
        torch.testing.assert_close(output.decoded, model.decode_codes(codes), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("downsampling", "groups"), [(1, 1), (2, 3), (4, 3), (8, 4)])
def test_grid_follows_the_downsampling(downsampling: int, groups: int) -> None:
    sizes = {"image_height": 40, "image_width": 8, "hidden": 32, "groups": groups}
    config = small(**sizes, downsampling=downsampling)
    assert config.grid == (40 // downsampling, 8 // downsampling)
    torch.manual_seed(0)
    model = Dvae(config)
    logits = model.encode_logits(torch.rand(1, 3, 40, 8))
    assert tuple(logits.shape[2:]) == config.grid
    decoded = model.decode(torch.softmax(logits, dim=1))
    assert decoded.shape == (1, 6, 40, 8)
    if downsampling > 1:  # every pixel has a value of its own
        assert not torch.equal(decoded[..., ::2, ::2], decoded[..., 1::2, 1::2])


def test_one_picture_is_as_in_a_batch(model: Dvae) -> None:
    images = torch.rand(3, 3, 24, 16, generator=torch.Generator().manual_seed(2))
    together = model.encode_logits(images)
    torch.testing.assert_close(model.encode_logits(images[1:2]), together[1:2])


@pytest.mark.parametrize("likelihood", ["logit_laplace", "mse"])
def test_the_perfect_output_gives_back_the_picture(likelihood: Likelihood) -> None:
    torch.manual_seed(0)
    model = Dvae(small(likelihood=likelihood))
    images = torch.rand(2, 3, 24, 16)
    mapped = map_images(images, likelihood)
    mean = torch.logit(mapped) if likelihood == "logit_laplace" else mapped
    decoded = torch.cat([mean, torch.full_like(mean, -8.0)], dim=1)
    torch.testing.assert_close(model.pixels(decoded), images, atol=1e-5, rtol=0)
    worse = torch.cat([mean + 0.3, torch.full_like(mean, -8.0)], dim=1)
    better, other = (reconstruction_nll(images, d, likelihood) for d in (decoded, worse))
    assert (better < other).all()


def test_psnr_of_a_known_error() -> None:
    images = torch.full((2, 3, 4, 5), 0.5)
    off = images.clone()
    off[1] += 0.1
    assert psnr(images, off)[1].item() == pytest.approx(-10 * math.log10(0.01), rel=1e-4)
    assert psnr(images, off)[0] > 90


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_width": 30}, "image_width is 30, no multiple of the downsampling 4; take (28|32)"),
        ({"downsampling": 3}, "with 3 groups it can be 1, 2, 4; more"),
        ({"downsampling": 8, "image_width": 8}, "downsampling is 8; with 3 groups"),
        ({"groups": 10**9}, "groups is 1000000000; expected at most 16"),
        ({"likelihood": "huber"}, "likelihood is 'huber'"),
        ({"hidden": 6}, "multiple of 4"),
        ({"num_codes": 0}, "num_codes is 0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)


@pytest.mark.slow
def test_one_full_size_picture_goes_through() -> None:
    torch.manual_seed(0)
    model = Dvae(DvaeConfig()).eval()
    with torch.inference_mode():
        codes = model.encode_logits(torch.rand(1, 3, 256, 256)).argmax(dim=1)
        pixels = model.pixels(model.decode_codes(codes))
    assert codes.shape == (1, 32, 32) and pixels.shape == (1, 3, 256, 256)
    assert pixels.min() >= 0 and pixels.max() <= 1
