"""LlamaGen: given the original's weights, ours answers as it did; its files are checked.

tests/golden/llamagen_gpt_c2i.* and llamagen_gpt_t2i.* hold what the original code
(FoundationVision/LlamaGen, MIT) answered in tiny configurations.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import CheckpointError
from dalle.pretrained import llamagen, llamagen_grid
from dalle.pretrained.family import Source, Weights
from dalle.pretrained.llamagen_model import Llamagen, LlamagenConfig
from dalle.pretrained.records import Record
from tests.published import answers, fill, filled_state

PATH = Path("t2i.pt")
KINDS = ["c2i", "t2i"]


@pytest.fixture
def known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the golden models' width say their number of heads."""
    monkeypatch.setitem(llamagen.HEADS, 32, 2)


def golden_model(kind: str) -> Llamagen:
    state = filled_state(f"llamagen_gpt_{kind}")
    slots = 5 if kind == "t2i" else None
    return llamagen.from_state(state, path=PATH, side=4, heads=2, slots=slots)


def source(
    state: dict[str, Tensor], *, args: Any = None, beside: dict[str, bytes] | None = None
) -> Source:
    """A file as the original's scripts write it, or a bare state dict where there are no args."""
    value = {"model": state, "steps": 1, "args": args} if args else state
    weights = Weights(path=PATH, value=value, state=state)
    return Source(path=PATH, weights=(weights,), beside=beside or {})


def args(**fields: int) -> Record:
    return Record("argparse.Namespace", state=fields)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_originals(kind: str) -> None:
    golden, model = answers(f"llamagen_gpt_{kind}"), golden_model(kind)
    codes = F.pad(golden["image_codes"], (0, 1))
    condition = golden["condition"]
    texts = condition.unsqueeze(1) if kind == "c2i" else condition
    torch.testing.assert_close(model(texts, codes), golden["logits"], atol=1e-5, rtol=0)


def test_slots_without_a_token_are_as_if_they_were_not_there() -> None:
    model = golden_model("t2i")
    features = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(0))
    padded = F.pad(features, (0, 0, 2, 0))
    codes = torch.arange(16).view(1, 16)
    short = LlamagenConfig(**{**_fields(model.config), "condition_slots": 3})
    without = Llamagen(short).eval()
    state = {k: v[:3] if k == "no_features" else v for k, v in model.state_dict().items()}
    without.load_state_dict(state)
    torch.testing.assert_close(model(padded, codes), without(features, codes), atol=1e-5, rtol=0)
    right = F.pad(features, (0, 0, 0, 2))
    torch.testing.assert_close(model(right, codes)[:, 1:], model(padded, codes)[:, 1:])


def test_guidance_holds_captions_against_the_learned_features_in_their_slots() -> None:
    state, model = filled_state("llamagen_gpt_t2i"), golden_model("t2i")
    texts = torch.ones(2, 5, 24)
    texts[0, :3] = 0
    null = model.no_caption(texts)
    learned = state["cls_embedding.uncond_embedding"]
    assert torch.equal(null[0, 3:], learned[3:5]) and not null[0, :3].any()
    assert torch.equal(null[1], learned[:5])
    by_class = golden_model("c2i")
    assert by_class.no_caption(torch.tensor([[3], [9]])).tolist() == [[10], [10]]


@pytest.mark.parametrize(
    ("kind", "sampling"),
    [("c2i", {"top_k": 2000, "guidance": 4.0}), ("t2i", {"top_k": 1000, "guidance": 7.5})],
)
def test_a_file_says_its_sizes(kind: str, sampling: dict[str, float], known_width: None) -> None:
    given = source(
        filled_state(f"llamagen_gpt_{kind}"), args=args(image_size=64, downsample_size=8)
    )
    sighting = llamagen.recognise(given)
    assert sighting is not None
    assert (sighting.family, sighting.version) == ("LlamaGen", kind)
    assert (sighting.sizes["depth"], sighting.sizes["grid"]) == (3, "8 x 8")
    converted = llamagen.convert(given)
    assert converted.sampling == sampling
    features = {"condition": "features", "condition_size": 24, "condition_slots": 120}
    assert converted.module.config == LlamagenConfig(
        **(features if kind == "t2i" else {"condition": "class", "condition_size": 10}),
        image_vocab=64, side=8, depth=3, width=32, heads=2, mlp_width=96,
    )  # fmt: skip


def test_the_grid_is_looked_for_where_it_may_stand(
    known_width: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = filled_state("llamagen_gpt_c2i")
    beside = {"config.json": json.dumps({"image_size": 256}).encode()}
    assert llamagen.convert(source(state, beside=beside)).module.layout.grid == (16, 16)
    assert llamagen.convert(source(state, args=args(image_size=384))).module.config.side == 24
    table = {**state, "freqs_cis": torch.zeros(1 + 36, 8, 2)}
    assert llamagen.convert(source(table)).module.config.side == 6
    with pytest.raises(CheckpointError, match=r"does not say for which size of picture it is; put"):
        llamagen.convert(source(state))
    monkeypatch.setattr(llamagen_grid, "ALWAYS_24", (32,))
    assert llamagen.convert(source(state)).module.config.side == 24


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("c2i_B_256.pt", 16),
        ("c2i_3B_384.pt", 24),
        ("t2i_XL_stage2_512.pt", 32),
        ("my_c2i_B_256.pt", None),
        ("c2i_B_300.pt", None),
    ],
)
def test_a_published_name_says_the_size_where_nothing_else_does(
    name: str, side: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    state = filled_state("llamagen_gpt_c2i")
    weights = Weights(path=Path(name), value={"model": state}, state=state)
    bare = Source(path=Path(name), weights=(weights,))
    assert llamagen_grid.side_of(weights, bare) == side
    assert (f"{name} is for" in caplog.text) == (side is not None)
    beside = {"config.json": json.dumps({"image_size": 128}).encode()}
    assert llamagen_grid.side_of(weights, replace(bare, beside=beside)) == 8


@pytest.mark.parametrize("damage", ["missing", "renamed", "misshapen"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_tensor_is_refused_by_its_name(kind: str, damage: str, known_width: None) -> None:
    whole = filled_state(f"llamagen_gpt_{kind}")
    for name in whole:
        state = dict(whole)
        tensor = state.pop(name)
        if damage == "renamed":
            state[f"{name}_"] = tensor
        if damage == "misshapen":
            state[name] = torch.cat([tensor, tensor], dim=-1)
        given = source(state, args=args(image_size=64))
        assert llamagen.recognise(given) is not None
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            llamagen.convert(given)


def test_what_no_model_has_is_refused(known_width: None) -> None:
    state = filled_state("llamagen_gpt_c2i")
    extra = {**state, "layers.0.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"holds 'layers\.0\.extra', which LlamaGen"):
        llamagen.convert(source(extra, args=args(image_size=64)))
    grouped = {**state, "layers.1.attention.wqkv.weight": torch.zeros(64, 32)}
    with pytest.raises(
        CheckpointError, match=r"layers\.1\.attention\.wqkv.*\(64, 32\).*\(96, 32\)"
    ):
        llamagen.convert(source(grouped, args=args(image_size=64)))
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        llamagen.convert(source(state, beside={"config.json": b"{"}))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"condition": "class", "condition_size": 1000, "depth": 12, "width": 768, "heads": 12,
          "mlp_width": 2048}, 111_000_000),
        ({"condition": "features", "condition_size": 2048, "condition_slots": 120, "depth": 36,
          "width": 1280, "heads": 20, "mlp_width": 3584}, 775_000_000),
    ],
)  # fmt: skip
def test_published_sizes_have_about_the_published_number_of_parameters(
    config: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        model = Llamagen(LlamagenConfig(**config, side=16))
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(parameters, rel=0.01)


def test_other_files_are_not_recognised() -> None:
    for name in ("rudalle_v3", "mindalle_transformer"):
        assert llamagen.recognise(source(filled_state(name))) is None
    assert llamagen.recognise(source({})) is None
    llama = ("tok_embeddings.weight", "output.weight", "layers.0.attention.wq.weight")
    assert llamagen.recognise(source({name: fill(name, [8, 8]) for name in llama})) is None


def _fields(config: LlamagenConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in LlamagenConfig.__dataclass_fields__}
