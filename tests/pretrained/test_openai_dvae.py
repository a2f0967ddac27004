"""OpenAI's discrete VAE: given its weights, ours answers as theirs did.

tests/golden/openai_dvae.* hold what the original code (openai/DALL-E, Modified MIT) answered in a
tiny configuration, with weights filled by the rule below.
"""

import json
import math
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.models.dvae import Dvae
from dalle.pretrained.openai_dvae import convert
from dalle.tokenizers.image import DvaeTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"


def fill(key: str, shape: list[int]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) % 2**31)
    values = torch.randn(shape, generator=generator)
    if len(shape) >= 2:
        return values / math.sqrt(math.prod(shape) / shape[0])
    return 1 + 0.1 * values if key.endswith(("weight", ".g", "scale")) else 0.1 * values


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Tensor]]:
    names = json.loads((GOLDEN / "openai_dvae.json").read_text())["state_dict"]
    return {
        side: {key: fill(key, shape) for key, shape in names[side].items()}
        for side in ("encoder", "decoder")
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "openai_dvae.safetensors")


@pytest.fixture(scope="module")
def model(states: dict[str, dict[str, Tensor]]) -> Dvae:
    converted = convert(states["encoder"], states["decoder"], image_size=32)
    model = Dvae(converted.config)
    model.load_state_dict(converted.state)
    return model.eval()


def test_logits_and_codes_are_openais(model: Dvae, golden: dict[str, Tensor]) -> None:
    logits = model.encode_logits(golden["image"])
    torch.testing.assert_close(logits, golden["logits"], atol=1e-4, rtol=0)
    assert torch.equal(DvaeTokenizer(model).encode(golden["image"]), golden["codes"])


def test_decoder_output_and_reconstruction_are_openais(
    model: Dvae, golden: dict[str, Tensor]
) -> None:
    decoded = model.decode_codes(golden["codes"])
    torch.testing.assert_close(decoded, golden["decoder_output"], atol=1e-4, rtol=0)
    pixels = DvaeTokenizer(model).decode(golden["codes"])
    torch.testing.assert_close(pixels, golden["reconstruction"], atol=1e-4, rtol=0)


def test_another_state_dict_is_refused(states: dict[str, dict[str, Tensor]]) -> None:
    encoder, decoder = states["encoder"], states["decoder"]
    with pytest.raises(CheckpointError, match=r"blocks\.group_1\.block_1"):
        convert({"weight": torch.zeros(1)}, decoder)
    with pytest.raises(CheckpointError, match="is no parameter of OpenAI"):
        convert({**encoder, "extra.w": torch.zeros(1)}, decoder)
    missing = {k: v for k, v in decoder.items() if k != "blocks.group_2.block_1.id_path.b"}
    with pytest.raises(CheckpointError, match="has the shape None"):
        convert(encoder, missing)
    far = {**encoder, "blocks.group_999999999.block_1.res_path.conv_1.b": torch.zeros(5)}
    with pytest.raises(CheckpointError, match="shape"):
        convert(far, decoder)
    many = {f"blocks.group_{n}.block_1.id_path.b": torch.zeros(5) for n in range(1, 99)}
    with pytest.raises(CheckpointError, match="groups is 98"):
        convert({**encoder, **many}, decoder)
    with pytest.raises(CheckpointError, match=r"blocks\.input\.w is missing or no convolution"):
        convert({**encoder, "blocks.input.w": torch.zeros(())}, decoder)
    odd = {**encoder, "blocks.group_1.block_1.res_path.conv_1.b": torch.zeros(5)}
    with pytest.raises(CheckpointError, match=r"\(5,\).*has \(4,\)"):
        convert(odd, decoder)
