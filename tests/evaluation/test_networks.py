"""The Inception network of FIDs without its weights, and what tells networks from one another."""

import pytest
import torch
import torch.nn.functional as F

from dalle.errors import CheckpointError, InputError
from dalle.evaluation.inception_v3 import (
    Conv,
    InceptionV3,
    largest_pool,
    load_inception,
    mean_pool,
)
from dalle.evaluation.networks import (
    clip_network,
    fingerprint_of,
    inception_network,
)
from dalle.models.fingerprint import fingerprint
from dalle.sampling.rerank import ClipReranker
from tests.fakes import BrightnessReranker, tiny_clip, tiny_text_tokenizer


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    torch.manual_seed(0)
    model = InceptionV3().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


def test_pools_leave_the_border_out_of_their_means():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert mean_pool(x)[0, 0].tolist() == [[2, 2.5, 3], [3.5, 4, 4.5], [5, 5.5, 6]]
    assert largest_pool(x)[0, 0].tolist() == [[4, 5, 5], [7, 8, 8], [7, 8, 8]]


def test_a_layer_is_convolution_normalisation_and_relu():
    torch.manual_seed(0)
    layer = Conv(2, 3, (1, 7)).eval()
    layer.bn.running_mean.fill_(0.1)
    layer.bn.running_var.fill_(4)
    x = torch.randn(1, 2, 5, 9)
    convolved = F.conv2d(x, layer.conv.weight, padding=(0, 3))
    assert torch.allclose(layer(x), ((convolved - 0.1) / (4 + 0.001) ** 0.5).clamp(min=0))
    assert Conv(1, 1, 3, stride=2)(torch.zeros(1, 1, 9, 9)).shape[2:] == (4, 4)


def test_maps_have_the_published_sizes(model):
    sizes = {}

    def note(name):
        return lambda module, args, out: sizes.__setitem__(name, tuple(out.shape[1:]))

    hooks = [m.register_forward_hook(note(n)) for n, m in model.named_children()]
    with torch.no_grad():
        features = model(torch.rand(1, 3, 40, 30))
    for hook in hooks:
        hook.remove()
    # Table 1 of arXiv 1512.00567: 149, 147, 147, 73, 71, 35 (288), 17 (768), 8 (1280, 2048).
    assert sizes["Conv2d_1a_3x3"] == (32, 149, 149)
    assert sizes["Conv2d_2a_3x3"] == (32, 147, 147)
    assert sizes["Conv2d_2b_3x3"] == (64, 147, 147)
    assert sizes["Conv2d_4a_3x3"] == (192, 71, 71)
    assert [sizes[f"Mixed_5{x}"] for x in "bcd"] == [(256, 35, 35), (288, 35, 35), (288, 35, 35)]
    assert {sizes[f"Mixed_6{x}"] for x in "abcde"} == {(768, 17, 17)}
    assert [sizes[f"Mixed_7{x}"] for x in "abc"] == [(1280, 8, 8), (2048, 8, 8), (2048, 8, 8)]
    assert features.shape == (1, 2048)
    # torchvision counts 27,161,264 with 1000 classes and the auxiliary head's 3,326,696.
    fc = 2048 * 8 + 8
    assert sum(p.numel() for p in model.parameters()) == 27_161_264 - 3_326_696 + fc
    assert torch.equal(model.class_logits(features), features @ model.fc.weight.T)


def by_hand(block, x, *chains):
    """A block as torch's functions of its state, without its own forward."""
    state = block.state_dict()

    def layer(name, x):
        weight = state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
        moments = (state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"])
        scale = (state[f"{name}.bn.weight"], state[f"{name}.bn.bias"])
        return F.relu(F.batch_norm(x, *moments, *scale, eps=0.001))

    outs = []
    for start, *names in chains:
        out = start(x)
        for name in names:
            parts = name if isinstance(name, tuple) else (name,)
            out = torch.cat([layer(part, out) for part in parts], dim=1)
        outs.append(out)
    return torch.cat(outs, dim=1)


@torch.no_grad()
def test_the_last_blocks_are_their_branches_side_by_side(model):
    def same(x):
        return x

    pools = {
        "Mixed_7b": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        "Mixed_7c": lambda x: F.max_pool2d(x, 3, 1, 1),
    }
    for name, pool in pools.items():
        block = model.get_submodule(name)
        x = torch.randn(1, block.branch1x1.conv.in_channels, 4, 5)
        expected = by_hand(
            block,
            x,
            (same, "branch1x1"),
            (same, "branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
            (same, "branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
            (pool, "branch_pool"),
        )
        assert torch.allclose(block(x), expected, atol=1e-5)
    block = model.Mixed_6c
    x = torch.randn(1, 768, 5, 4)
    expected = by_hand(
        block,
        x,
        (same, "branch1x1"),
        (same, *(f"branch7x7_{i}" for i in (1, 2, 3))),
        (same, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
        (pools["Mixed_7b"], "branch_pool"),
    )
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_a_file_is_read_whole_or_refused(model, file, tmp_path):
    x = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        assert torch.equal(load_inception(file)(x), model(x))
    network = inception_network(str(file), torch.device("cpu"))
    assert network.fingerprint == fingerprint(model)
    assert network.class_logits is not None
    state = model.state_dict()
    assert len(state) == 6 * 94 + 2  # the published file: 94 layers of 5 tensors and a count; fc
    first = "Conv2d_1a_3x3.bn.bias"
    for other, said in (
        ({first: torch.zeros(31)}, f"{first}' is .31,., in the Inception v3 of FIDs it is .32,."),
        ({"AuxLogits.fc.bias": torch.zeros(1)}, "'AuxLogits.fc.bias' is .1,., .* absent"),
        ({"Conv2d_2a": torch.zeros(1)}, f"{first}' is absent"),
    ):
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=said):
            load_inception(tmp_path / "other.pth")
    with pytest.raises(InputError, match="there is no file"):
        inception_network(str(tmp_path / "none.pth"), torch.device("cpu"))


def test_a_fingerprint_tells_weights_apart_and_nothing_else():
    tokenizer = tiny_text_tokenizer()
    clips = [ClipReranker(tiny_clip(tokenizer, seed=s), tokenizer) for s in (0, 0, 1)]
    a, again, other = (clip_network(clip, "x") for clip in clips)
    assert a.fingerprint == again.fingerprint != other.fingerprint
    assert fingerprint_of(clips[0]) == a.fingerprint
    assert fingerprint_of(None) is fingerprint_of(BrightnessReranker()) is None
    features = a.features(torch.rand(2, 3, 9, 8))
    assert torch.allclose(features.norm(dim=1), torch.ones(2))
