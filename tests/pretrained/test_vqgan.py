"""VQGANs of taming-transformers, ru-DALL·E, minDALL-E and LlamaGen answer as the originals did.

The golden files hold the answers of the original code (MIT and Apache-2.0) in tiny configurations.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import CheckpointError
from dalle.models.vqgan import Vqgan
from dalle.pretrained import llamagen_vq, vqgan
from dalle.pretrained.read import read
from dalle.pretrained.recognize import convert, recognise
from dalle.tokenizers.image import ModelTokenizer
from tests.pretrained.originals import answers, fill, original_state, saved

HERE = Path("file.ckpt")
READERS: dict[str, Callable[..., Vqgan]] = {
    "taming_vqgan": vqgan.from_state,
    "taming_gumbel_vqgan": vqgan.from_state,
    "mindalle_vqgan": vqgan.from_state,
    "llamagen_vq": llamagen_vq.from_state,
}


@pytest.fixture(scope="module", params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Vqgan:
    return READERS[name](original_state(name), path=HERE, image_size=(32, 32))


def test_codes_and_pictures_are_the_originals(name: str, model: Vqgan) -> None:
    golden = answers(name)
    codes = ModelTokenizer(model, chunk=1).encode(golden["image"])
    assert torch.equal(codes.flatten(1), golden["codes"].flatten(1))
    with torch.no_grad():
        pictures = model.decode(codes)
    torch.testing.assert_close(pictures, golden["reconstruction"], atol=1e-5, rtol=0)
    shown = ModelTokenizer(model).decode(codes)
    assert torch.equal(shown, ((pictures + 1) / 2).clamp(0, 1)) and shown.amax() == 1


def test_what_is_quantized_is_the_originals() -> None:
    golden = answers("taming_vqgan")
    model = vqgan.from_state(original_state("taming_vqgan"), path=HERE, image_size=(32, 32))
    latents = model.latents(golden["image"])
    torch.testing.assert_close(latents, golden["pre_quant"], atol=1e-5, rtol=0)
    entries = model.quantize.entries(golden["codes"]).movedim(-1, 1)
    torch.testing.assert_close(entries, golden["quantized"], atol=1e-6, rtol=0)
    golden = answers("taming_gumbel_vqgan")
    model = vqgan.from_state(original_state("taming_gumbel_vqgan"), path=HERE, image_size=(32, 32))
    logits = model.quantize.proj(model.latents(golden["image"]))
    torch.testing.assert_close(logits, golden["logits"], atol=1e-5, rtol=0)


def test_pictures_need_not_be_square(name: str) -> None:
    model = READERS[name](original_state(name), path=HERE, image_size=(16, 40))
    codes = ModelTokenizer(model).encode(torch.rand(3, 3, 16, 40))
    assert codes.shape == (3, 4, 10) and model.grid == (4, 10)
    assert ModelTokenizer(model).decode(codes).shape == (3, 3, 16, 40)


def test_a_tensor_that_is_missing_renamed_or_misshapen_is_named(name: str) -> None:
    state = original_state(name)
    told = ("encoder.conv_in.weight", "encoder.conv_out.bias", "quant_conv.weight")
    first = next(key for key in state if "0.conv1.weight" in key)
    books = [key for key in state if key.startswith("quantize.")]
    for key in {*told, first, *books, list(state)[-9]}:
        others = {k: v for k, v in state.items() if k != key}
        for changed in (others, others | {f"{key}_": state[key]}, state | {key: state[key][:-1]}):
            if key.startswith("quantize.embedding") and key in changed:
                continue  # nothing else in it says how many codes there are
            with pytest.raises(CheckpointError, match=r"file\.ckpt") as caught:
                READERS[name](changed, path=HERE, image_size=(32, 32))
            assert repr(key) in str(caught.value)


def test_values_that_are_no_numbers_are_refused(name: str) -> None:
    state = original_state(name)
    state["quant_conv.bias"] = torch.full_like(state["quant_conv.bias"], torch.nan)
    with pytest.raises(CheckpointError, match=r"'quant_conv\.bias' holds values that are not fin"):
        READERS[name](state, path=HERE)


def test_what_only_training_needed_is_passed_over() -> None:
    extra = {"loss.discriminator.main.0.weight": torch.ones(2)}
    vqgan.from_state(original_state("taming_vqgan") | extra, path=HERE)
    used = {"quantize.codebook_used": torch.zeros(9)}
    llamagen_vq.from_state(original_state("llamagen_vq") | used, path=HERE)
    with pytest.raises(CheckpointError, match=r"holds 'quantize\.codebook_used'"):
        vqgan.from_state(original_state("taming_vqgan") | used, path=HERE)


def wavelet_state() -> dict[str, Tensor]:
    """As ru-DALL·E writes it: all under `model.`, the decoder in another one with 12 outputs."""
    plain = original_state("taming_gumbel_vqgan")
    state = {}
    for key, tensor in plain.items():
        state[f"model.decoder.{key}" if key.startswith("decoder.") else f"model.{key}"] = tensor
    for end, shape in (("weight", [12, 32, 3, 3]), ("bias", [12])):
        state[f"model.decoder.decoder.conv_out.{end}"] = fill(f"wavelets.{end}", shape)
        key = f"post_quant_conv.{end}"
        state[f"model.decoder.{key}"] = fill(f"inner {key}", list(plain[key].shape))
    for name in ("g0_row", "g1_row", "g0_col", "g1_col"):
        state[f"model.decoder.idwt.{name}"] = torch.ones(1, 1, 2, 1)
    return state


def test_wavelets_give_pictures_of_twice_the_size() -> None:
    model = vqgan.from_state(wavelet_state(), path=HERE, image_size=(16, 40))
    assert model.image_size == (32, 80) and model.grid == (4, 10)
    assert torch.equal(
        model.post_quant_conv.weight, wavelet_state()["model.decoder.post_quant_conv.weight"]
    )
    tokenizer = ModelTokenizer(model)
    images = torch.rand(2, 3, 32, 80)
    plain = vqgan.from_state(original_state("taming_gumbel_vqgan"), path=HERE, image_size=(16, 40))
    halved = ModelTokenizer(plain).encode(F.avg_pool2d(images, 2))
    assert torch.equal(tokenizer.encode(images), halved)
    assert tokenizer.decode(halved).shape == images.shape


def test_a_lightning_file_with_its_yaml_is_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    state = original_state("taming_vqgan")
    (path := folder / "last.anything").write_bytes(
        saved({"state_dict": state, "callbacks": {Path: Path("x")}, "epoch": 3})
    )
    assert recognise(read(path)).version == "VQGAN"
    assert convert(read(path)).module.config.image_height == 256
    described = (
        "model:\n  params:\n    embed_dim: 32\n    n_embed: {}\n    ddconfig:\n      resolution: {}"
    )
    (folder / "another.yaml").write_text(described.format(1024, 64))
    (folder / "model.yaml").write_text(described.format(64, 32))
    converted = convert(read(path))
    assert isinstance(converted.module, Vqgan)
    assert converted.module.config.image_height == 32
    assert converted.sighting.sizes["picture"] == "32 x 32"


def test_llamagens_file_is_recognised_by_its_layers(tmp_path: Path) -> None:
    state = original_state("llamagen_vq")
    (path := tmp_path / "vq_ds16_c2i.pt").write_bytes(
        saved({"model": {"x": torch.ones(1)}, "ema": state, "optimizer": {}})
    )
    assert recognise(read(path)).version == "VQ-4"  # the tiny one halves twice
    assert torch.equal(convert(read(path)).module.quant_conv.weight, state["quant_conv.weight"])
