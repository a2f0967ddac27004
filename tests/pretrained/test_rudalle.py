"""ru-DALL·E: given the original's weights, ours answers as it did; its files are checked.

tests/golden/rudalle_v2.* and rudalle_v3.* hold what the original code (ai-forever/ru-dalle,
Apache-2.0) answered in a tiny configuration.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.nn.masks import dense_mask
from dalle.nn.precision import logits
from dalle.pretrained import rudalle
from dalle.pretrained.family import Source, Weights
from dalle.pretrained.rudalle_model import RudalleConfig
from tests.published import answers, fill, filled_state

PATH = Path("pytorch_model.bin")
VERSIONS = ["v2", "v3"]


@pytest.fixture
def known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the golden models' width say their number of heads."""
    monkeypatch.setitem(rudalle.HEADS, 32, 2)


def file_state(version: str, *, side: int = 8, dtype: torch.dtype = torch.float32) -> dict:
    """A state dict in the layout of a published file: with masks, and a grid that fits them."""
    state = filled_state(f"rudalle_{version}")
    for axis in ("row", "col"):
        name = f"image_{axis}_embeddings.weight"
        state[name] = fill(name, [side, 32])
    config = RudalleConfig(version=version, text_slots=6, side=side, depth=5)
    for name, layer in (("row", 0), ("col", 1), ("conv", 4)):
        mask = dense_mask(config.layer_patterns[layer], config.layout)
        state[f"transformer.{name}_mask"] = mask if version == "v3" else mask.to(dtype)
    return state


def source(state: dict[str, Tensor]) -> Source:
    return Source(path=PATH, weights=(Weights(path=PATH, value=state, state=state),))


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_are_the_originals(version: str) -> None:
    state, golden = filled_state(f"rudalle_{version}"), answers(f"rudalle_{version}")
    model = rudalle.from_state(state, path=PATH, version=version, heads=2)
    text, codes = golden["input_ids"].split([6, 16], dim=1)
    assert (text == 0).any() and (text != 0).any()
    everywhere = logits(model.hidden(text, codes), model.head.weight, model.head.bias)
    torch.testing.assert_close(everywhere, golden["logits"], atol=1e-5, rtol=0)
    output = model(text, codes)
    first = 6 if version == "v2" else 5
    torch.testing.assert_close(output.text, golden["logits"][:, :first, :46], atol=1e-5, rtol=0)
    image = golden["logits"][:, first : first + 16, 46:]
    torch.testing.assert_close(output.image, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_masks_of_a_file_tell_its_version(
    version: str, dtype: torch.dtype, known_width: None
) -> None:
    state = file_state(version, dtype=dtype)
    sighting = rudalle.recognise(source(state))
    assert sighting is not None
    assert (sighting.family, sighting.version, sighting.sizes["depth"]) == ("ru-DALL·E", version, 5)
    converted = rudalle.convert(source(state))
    assert converted.module.config == RudalleConfig(
        version=version, text_vocab=40, image_vocab=32, text_slots=6, side=8, depth=5, width=32,
        heads=2,
    )  # fmt: skip
    assert converted.sampling == {"top_k": 2048, "top_p": 0.995}


def test_layers_are_those_of_the_published_sizes() -> None:
    malevich = RudalleConfig(version="v3")
    names = [pattern.name for pattern in malevich.layer_patterns]
    assert [names.count(n) for n in ("row", "column", "square")] == [17, 6, 1]
    assert names[1] == names[21] == "column" and names[23] == "square"
    assert RudalleConfig(version="v2", depth=6).layer_patterns[5].name == "column"


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        malevich = rudalle.Rudalle(RudalleConfig(version="v3"))
    assert sum(p.numel() for p in malevich.parameters()) == 1_310_410_880


@pytest.mark.parametrize("damage", ["missing", "renamed", "misshapen"])
def test_a_damaged_tensor_is_refused_by_its_name(damage: str, known_width: None) -> None:
    whole = file_state("v3")
    for name in whole:
        if name.endswith("_mask"):
            continue
        state = dict(whole)
        tensor = state.pop(name)
        if damage == "renamed":
            state[f"{name}_"] = tensor
        if damage == "misshapen":
            state[name] = torch.cat([tensor, tensor], dim=-1)
        assert rudalle.recognise(source(state)) is not None
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            rudalle.convert(source(state))


def test_what_no_model_has_is_refused(known_width: None) -> None:
    state = file_state("v3")
    with pytest.raises(CheckpointError, match=r"holds 'transformer\.layers\.0\.extra', which"):
        rudalle.convert(source({**state, "transformer.layers.0.extra": torch.zeros(1)}))
    no_mask = {key: value for key, value in state.items() if not key.endswith("_mask")}
    with pytest.raises(CheckpointError, match=r"no 'transformer\.conv_mask' that would tell"):
        rudalle.convert(source(no_mask))
    wide = {**state, "image_embeddings.weight": torch.zeros(33, 32)}
    with pytest.raises(CheckpointError, match=r"image_embeddings.weight 33; in ru-DALL·E"):
        rudalle.convert(source(wide))


def test_a_width_that_was_never_published_is_refused() -> None:
    with pytest.raises(CheckpointError, match="have a width of 2048, 3840; this one has 32"):
        rudalle.convert(source(file_state("v2")))


def test_other_files_are_not_recognised() -> None:
    for name in ("mindalle_transformer", "llamagen_gpt_t2i", "llamagen_gpt_c2i"):
        assert rudalle.recognise(source(filled_state(name))) is None
    assert rudalle.recognise(source({})) is None
