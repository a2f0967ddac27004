"""Layers computed again in the backward pass: the same numbers from less memory."""

import copy

import pytest
import torch
from torch import Tensor, nn

from dalle.errors import ConfigError
from dalle.models.clip import Clip, ClipConfig, TowerConfig
from dalle.models.dalle import Dalle, DalleConfig
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.training.recompute import recompute_layers

TOWER = TowerConfig(width=16, depth=3, heads=2)


def dalle(depth: int = 4) -> Dalle:
    torch.manual_seed(0)
    sizes = {"text_slots": 5, "rows": 3, "cols": 4, "width": 16, "heads": 2, "conv_kernel": 3}
    config = DalleConfig(text_vocab=20, image_vocab=11, depth=depth, dropout=0.3, **sizes)
    model = Dalle(config)
    for head in (model.text_head, model.image_head):  # which begin at zero
        nn.init.normal_(head.weight)
    return model


def dalle_inputs() -> tuple[Tensor, Tensor]:
    return torch.randint(20, (2, 5)), torch.randint(11, (2, 12))


def clip() -> Clip:
    sizes = {"image_height": 16, "image_width": 32, "embed_dim": 8, "patch": 4}
    return Clip(ClipConfig(text_vocab=20, text_slots=5, vision=TOWER, text=TOWER, **sizes))


def kept(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, dict[str, Tensor]]:
    """Bytes that wait for the backward pass, and the gradients."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(*inputs)
    total = sum(storage.nbytes() for storage in storages.values())
    sum(getattr(output, name).square().mean() for name in output.__slots__).backward()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["dalle", "clip"])
def test_gradients_are_the_same_bit_for_bit_from_less_memory(kind: str) -> None:
    model = dalle() if kind == "dalle" else clip()
    texts, codes = dalle_inputs()
    inputs = (texts, codes) if kind == "dalle" else (torch.rand(2, 3, 16, 32), texts)
    names = list(model.state_dict())
    whole, expected = kept(model, inputs)
    model.zero_grad()
    recompute_layers(model)
    assert list(model.state_dict()) == names
    less, found = kept(model, inputs)
    assert found.keys() == expected.keys() and len(found) > 20
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert sum(bool(value.any()) for value in expected.values()) > 0.8 * len(expected)
    assert less < 0.7 * whole


def test_memory_grows_by_one_input_a_layer() -> None:
    inputs = dalle_inputs()
    bytes_at = []
    for depth in (4, 8):
        model = dalle(depth)
        recompute_layers(model)
        bytes_at.append(kept(model, inputs)[0])
    one_input = 2 * (5 + 12) * 16 * 4
    assert bytes_at[1] - bytes_at[0] == pytest.approx(4 * one_input, rel=0.1)


def test_a_copy_computes_with_its_own_weights() -> None:
    model = dalle().eval()
    recompute_layers(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.transformer.blocks.parameters():
            parameter.zero_()
        inputs = dalle_inputs()
        assert not torch.allclose(other(*inputs).image, model(*inputs).image)


def test_a_model_without_layers_is_refused() -> None:
    sizes = {"image_height": 16, "image_width": 16, "hidden": 8, "embed_dim": 8}
    with pytest.raises(ConfigError, match="a Dvae has no layers that could be computed again"):
        recompute_layers(Dvae(DvaeConfig(num_codes=9, **sizes)))
