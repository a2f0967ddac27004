"""The linear layer through oneDNN against torch's own, results and gradients."""

import pytest
import torch
from torch.nn import functional as F

from dalle.nn import linear as module
from dalle.nn.linear import Linear, linear, linear32, product, weights_kept


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the products that went to oneDNN."""
    seen = []
    original = module._product

    def counted(x, weight, bias=None):
        seen.append((tuple(x.shape), tuple(weight.shape)))
        return original(x, weight, bias)

    monkeypatch.setattr(module, "_product", counted)
    monkeypatch.setattr(module, "LEAST_PRODUCTS", 1)
    return seen


def tensors(*leading, width=24, out=40, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((*leading, width), (out, width), (out,))
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("available", [module._onednn() is not None])
@pytest.mark.parametrize("out", [40, 16])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("leading", [(9,), (3, 5), (2, 2, 7)], ids=str)
def test_results_and_gradients_are_those_of_torch(
    leading, narrow, out, calls, available, monkeypatch
):
    monkeypatch.setattr(module, "MKL_IS_NARROW", narrow)
    results = []
    for form in (linear, F.linear):
        inputs = tensors(*leading, out=out)
        y = form(*inputs)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        results.append([y.detach(), *(x.grad for x in inputs)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    # MKL's is the gradient of weights for which oneDNN would copy the larger factor.
    by_onednn = 3 if narrow or out < 24 else 2
    assert len(calls) == (by_onednn if available else 0)


@pytest.mark.parametrize(
    ("vendor", "family", "narrow"),
    [
        ("AuthenticAMD", 26, True),
        ("AuthenticAMD", 25, False),
        ("GenuineIntel", 26, False),
        (None, None, False),
    ],
)
def test_the_processor_says_whether_mkl_uses_it(vendor, family, narrow, tmp_path):
    told = tmp_path / "cpuinfo"
    if vendor is not None:
        told.write_text(
            f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\npower management:\n\n"
        )
    assert module._mkl_is_narrow(told) is narrow


@pytest.mark.parametrize("available", [module._onednn() is not None])
def test_only_the_gradients_asked_for_are_computed(calls, available):
    x, weight, bias = tensors(9)
    x.requires_grad_(False)
    linear(x, weight, bias).sum().backward()
    assert x.grad is None and weight.grad is not None
    asked = 2 if module.MKL_IS_NARROW else 1
    assert len(calls) == (asked if available else 0)


def test_other_types_few_rows_and_odd_strides_stay_with_torch(calls):
    with torch.no_grad():
        x, weight, bias = tensors(9)
        linear(x[:7], weight, bias)
        linear(x[:, ::2], weight[:, ::2], bias)
        product(x[:, 2:], weight[:, 2:].contiguous())
        product(x[:, 2:].contiguous(), weight[:, 2:])
        linear(*tensors(9, dtype=torch.float64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16
    assert calls == []


@pytest.mark.parametrize("available", [module._onednn() is not None])
def test_products_of_transposed_matrices(calls, available):
    with torch.no_grad():
        x, weight, _ = tensors(30)
        torch.testing.assert_close(product(x, weight), x @ weight.t())
        torch.testing.assert_close(product(x.t(), x.t()), x.t() @ x)
    assert len(calls) == (2 if available else 0)


def test_the_layer_is_a_linear_layer_of_torch():
    torch.manual_seed(0)
    layer = Linear(16, 24)
    assert isinstance(layer, torch.nn.Linear) and list(layer.state_dict()) == ["weight", "bias"]
    x = torch.randn(3, 8, 16)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 16, 64])
def test_kept_weights_give_the_same_product(rows, dtype):
    x, weight, bias = tensors(rows, width=160, out=120, dtype=dtype)
    with torch.no_grad():
        expected = F.linear(x, weight, bias)
        with weights_kept():
            first, second = linear(x, weight, bias), linear(x, weight, bias)
    assert torch.equal(first, second)
    scale = expected.abs().max()
    error = (first - expected).abs().max() / scale
    assert error <= (1e-6 if dtype == torch.float32 else 2.0**-7)


def test_weights_are_laid_out_once_and_forgotten_at_the_end():
    x, weight, bias = (t.detach() for t in tensors(4, width=160, out=120))
    kept = module._packs(torch.float32)
    with torch.no_grad():
        with weights_kept():
            before = linear(x, weight, bias)
            made = dict(module._KEPT.get().made)
            assert torch.equal(linear(x, weight, bias), before)
            assert module._KEPT.get().made.keys() == made.keys() and len(made) == kept
        weight.mul_(2.0)  # as training would; what was made of it is gone
        with weights_kept():
            assert torch.allclose(linear(x, weight, bias) - bias, 2 * (before - bias), atol=1e-4)
        assert module._KEPT.get() is None


def test_launches_of_few_rows_share_a_layout_and_none_are_no_rows(calls):
    _, weight, bias = (t.detach() for t in tensors(4, width=160, out=120))
    packs = module._packs(torch.float32)
    with torch.no_grad(), weights_kept():
        for rows in (0, 1, 2, 3, 5, 8):
            x = torch.randn(rows, 160)
            found = linear(x, weight, bias)
            assert found.shape == (rows, 120)
            torch.testing.assert_close(found, F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)
        assert len(module._KEPT.get().made) == packs
    # One row and two are computed as four, which is faster.
    assert [x[0] for x, _ in calls] == [4, 4, 3, 5, 8] * packs


def test_nothing_is_kept_where_a_gradient_is_recorded():
    x, weight, bias = tensors(4, width=160, out=120)
    with weights_kept():
        linear(x, weight, bias).sum().backward()
        assert not module._KEPT.get().made
    assert weight.grad is not None


def test_unembeddings_are_taken_to_float32_once():
    x, weight, bias = (t.detach() for t in tensors(4, width=160, out=120, dtype=torch.bfloat16))
    expected = F.linear(x.float(), weight.float(), bias.float())
    with torch.no_grad(), weights_kept():
        found = [linear32(x, weight, bias) for _ in range(2)]
        floats = [made for _, made in module._KEPT.get().made.values() if made.dtype == torch.float]
        assert len({id(made) for made in floats}) == len(floats) >= 1
    assert all(torch.allclose(f, expected, atol=1e-5) for f in found)
