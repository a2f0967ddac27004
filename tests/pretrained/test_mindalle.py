"""minDALL-E: given the original's weights, ours answers as it did; its files are checked.

tests/golden/mindalle_transformer.* hold what the original code (kakaobrain/minDALL-E, Apache-2.0)
answered in a tiny configuration.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained import mindalle
from dalle.pretrained.family import Source, Weights
from dalle.pretrained.mindalle_model import MindalleConfig
from tests.published import answers, filled_state

PATH = Path("stage2_last.ckpt")


@pytest.fixture
def known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the golden model's width say their number of heads."""
    monkeypatch.setitem(mindalle.HEADS, 32, 2)


def source(state: dict[str, Tensor]) -> Source:
    return Source(path=PATH, weights=(Weights(path=PATH, value=state, state=state),))


def test_logits_are_the_originals() -> None:
    golden = answers("mindalle_transformer")
    model = mindalle.from_state(filled_state("mindalle_transformer"), path=PATH, heads=2)
    output = model(golden["text"], golden["image_codes"])
    torch.testing.assert_close(output.image, golden["image_logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.text, golden["text_logits"], atol=1e-5, rtol=0)


def test_a_file_says_its_sizes(known_width: None) -> None:
    given = source(filled_state("mindalle_transformer"))
    sighting = mindalle.recognise(given)
    assert sighting is not None
    assert (sighting.family, sighting.sizes["depth"]) == ("minDALL-E", 3)
    assert "not for commercial use" in sighting.licence
    converted = mindalle.convert(given)
    assert converted.module.config == MindalleConfig(
        text_vocab=40, image_vocab=32, text_slots=6, side=4, depth=3, width=32, heads=2
    )
    assert converted.sampling == {"top_k": 256}


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = mindalle.Mindalle(MindalleConfig())
    assert sum(p.numel() for p in model.parameters()) == 1_291_081_728


@pytest.mark.parametrize("damage", ["missing", "renamed", "misshapen"])
def test_a_damaged_tensor_is_refused_by_its_name(damage: str, known_width: None) -> None:
    whole = filled_state("mindalle_transformer")
    for name in whole:
        state = dict(whole)
        tensor = state.pop(name)
        if damage == "renamed":
            state[f"{name}_"] = tensor
        if damage == "misshapen":
            state[name] = torch.cat([tensor, tensor], dim=-1)
        assert mindalle.recognise(source(state)) is not None
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            mindalle.convert(source(state))


def test_what_no_model_has_is_refused(known_width: None) -> None:
    state = filled_state("mindalle_transformer")
    with pytest.raises(CheckpointError, match=r"holds 'blocks\.0\.extra', which minDALL-E"):
        mindalle.convert(source({**state, "blocks.0.extra": torch.zeros(1)}))
    oblong = {**state, "pos_emb_img.weight": torch.zeros(15, 32)}
    with pytest.raises(CheckpointError, match=r"'pos_emb_img\.weight' has the shape \(15, 32\)"):
        mindalle.convert(source(oblong))


def test_a_width_that_was_never_published_is_refused() -> None:
    with pytest.raises(CheckpointError, match="has a width of 1536; this one has 32"):
        mindalle.convert(source(filled_state("mindalle_transformer")))


def test_other_files_are_not_recognised() -> None:
    for name in ("rudalle_v3", "llamagen_gpt_t2i", "llamagen_gpt_c2i"):
        assert mindalle.recognise(source(filled_state(name))) is None
    assert mindalle.recognise(source({})) is None
