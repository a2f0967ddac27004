"""OpenAI's discrete VAE: given its files, ours answers as theirs did.

tests/golden/openai_dvae.* hold what the original code (openai/DALL-E, Modified MIT) answered in a
tiny configuration, with weights filled by the rule in `originals`.
"""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dalle.errors import CheckpointError
from dalle.models.dvae import Dvae
from dalle.pretrained.openai_dvae import from_states
from dalle.pretrained.read import read
from dalle.pretrained.recognize import convert, recognise
from dalle.tokenizers.image import DvaeTokenizer
from tests.pretrained.originals import GOLDEN, answers, fill, saved

HERE = Path("vae.pt")
States = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def states() -> States:
    names = json.loads((GOLDEN / "openai_dvae.json").read_text())["state_dict"]
    return {
        side: {key: fill(key, shape) for key, shape in names[side].items()}
        for side in ("encoder", "decoder")
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return answers("openai_dvae")


@pytest.fixture(scope="module")
def model(states: States) -> Dvae:
    return from_states(states["encoder"], states["decoder"], path=HERE, image_size=(32, 32))


def test_logits_and_codes_are_openais(model: Dvae, golden: dict[str, Tensor]) -> None:
    logits = model.encode_logits(golden["image"])
    torch.testing.assert_close(logits, golden["logits"], atol=1e-5, rtol=0)
    assert torch.equal(DvaeTokenizer(model).encode(golden["image"]), golden["codes"])


def test_decoder_output_and_reconstruction_are_openais(
    model: Dvae, golden: dict[str, Tensor]
) -> None:
    decoded = model.decode_codes(golden["codes"])
    torch.testing.assert_close(decoded, golden["decoder_output"], atol=1e-5, rtol=0)
    pixels = DvaeTokenizer(model).decode(golden["codes"])
    torch.testing.assert_close(pixels, golden["reconstruction"], atol=1e-5, rtol=0)


def pickled_module(side: str, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """`torch.save(module)`, with every layer of a class of a package that is not installed."""
    package = types.ModuleType(f"dall_e.{side}")
    monkeypatch.setitem(sys.modules, "dall_e", types.ModuleType("dall_e"))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    foreign = type("Layer", (nn.Module,), {"__module__": package.__name__})
    package.Layer = foreign  # type: ignore[attr-defined]
    module = foreign()
    for key, tensor in state.items():
        *path, name = key.split(".")
        place = module
        for part in path:
            if part not in place._modules:
                place.add_module(part, foreign())
            place = place.get_submodule(part)
        place.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    return saved(module)


@pytest.fixture
def folder(states: States, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both published files, in their published form."""
    with monkeypatch.context() as patch:
        for side, state in states.items():
            (tmp_path / f"{side}.pkl").write_bytes(pickled_module(side, state, patch))
    return tmp_path


@pytest.mark.parametrize("given", ["encoder.pkl", "decoder.pkl", "."])
def test_the_pickled_modules_load_by_path_alone(
    given: str, folder: Path, golden: dict[str, Tensor]
) -> None:
    source = read(folder / given)
    assert recognise(source).missing == ()
    converted = convert(source).module
    assert isinstance(converted, Dvae) and converted.config.image_height == 256
    logits = converted.encode_logits(golden["image"])
    torch.testing.assert_close(logits, golden["logits"], atol=1e-5, rtol=0)


def test_the_half_that_is_missing_is_named(folder: Path) -> None:
    (folder / "decoder.pkl").write_bytes(b"\x80\x02cos\nsystem\n.")  # passed over: not asked for
    source = read(folder / "encoder.pkl")
    assert "its decoder" in recognise(source).missing[0]
    with pytest.raises(CheckpointError, match=r"lacks its decoder.*cdn\.openai\.com"):
        convert(source)


def test_pictures_need_not_be_square(states: States) -> None:
    model = from_states(states["encoder"], states["decoder"], path=HERE, image_size=(16, 40))
    codes = DvaeTokenizer(model).encode(torch.rand(2, 3, 16, 40))
    assert codes.shape == (2, 2, 5)
    assert DvaeTokenizer(model).decode(codes).shape == (2, 3, 16, 40)


def test_a_tensor_that_is_missing_renamed_or_misshapen_is_named(states: States) -> None:
    for side, state in states.items():
        for key in list(state)[::17]:
            others = {k: v for k, v in state.items() if k != key}
            for changed in (
                others,
                others | {f"{key}_": state[key]},
                state | {key: state[key][:-1]},
            ):
                with pytest.raises(CheckpointError, match=r"vae\.pt") as caught:
                    from_states(**(states | {side: changed}), path=HERE)
                assert f"'{side[:3]}.{key}'" in str(caught.value)


def test_another_state_dict_is_refused(states: States) -> None:
    encoder, decoder = states["encoder"], states["decoder"]
    with pytest.raises(CheckpointError, match=r"blocks\.group_1\.block_1"):
        from_states({"weight": torch.zeros(1)}, decoder, path=HERE)
    with pytest.raises(CheckpointError, match=r"holds 'enc\.extra\.w'"):
        from_states({**encoder, "extra.w": torch.zeros(1)}, decoder, path=HERE)
    far = {**encoder, "blocks.group_999999999.block_1.res_path.conv_1.b": torch.zeros(5)}
    with pytest.raises(CheckpointError, match="group_5"):
        from_states(far, decoder, path=HERE)
    many = {f"blocks.group_{n}.block_1.id_path.b": torch.zeros(5) for n in range(1, 99)}
    with pytest.raises(CheckpointError, match="groups is 98"):
        from_states({**encoder, **many}, decoder, path=HERE)
