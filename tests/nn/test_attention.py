"""Every form of every pattern against the dense mask, results and gradients."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from dalle.layout import StreamLayout
from dalle.nn import attention
from dalle.nn.attention import WholeStream, choose_form, dense_attention
from dalle.nn.masks import Pattern, dense_mask
from dalle.nn.windowed_attention import windowed_attention
from dalle.nn.windows import cut_into_windows

CPU = torch.device("cpu")
LAYOUTS = [
    StreamLayout(text=4, rows=4, cols=4),
    StreamLayout(text=7, rows=5, cols=3),
    StreamLayout(text=1, rows=3, cols=7),
    StreamLayout(text=2, rows=6, cols=2, prefix=1),
    StreamLayout(text=3, rows=1, cols=5),
    StreamLayout(text=3, rows=5, cols=1),
]
PATTERNS = [
    Pattern(name="row"),
    Pattern(name="column"),
    Pattern(name="conv", kernel=3),
    Pattern(name="conv", kernel=5),
    Pattern(name="full"),
    Pattern(name="grid_row"),
    Pattern(name="square", kernel=3),
    Pattern(name="torus", kernel=3),
    Pattern(name="box", kernel=3),
]


def with_gradients(form, layout, dtype=torch.float32, batch=2, heads=3, width=4):
    """What a form makes of random inputs that come from one projection, as the model's do."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, layout.length, 3, heads, width)
    qkv = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    mixed = form(*qkv.permute(2, 0, 3, 1, 4))
    weights = torch.randn(mixed.shape, generator=generator).to(dtype)
    (mixed * weights).sum().backward()
    return mixed.detach(), qkv.grad


def dense(pattern, layout):
    return partial(F.scaled_dot_product_attention, attn_mask=dense_mask(pattern, layout))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_windows_equal_the_dense_mask_with_their_gradients(pattern, layout):
    windows = cut_into_windows(pattern, layout)
    form = partial(windowed_attention, windows=windows)
    for got, expected in zip(
        with_gradients(form, layout), with_gradients(dense(pattern, layout), layout), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["row", "column", "conv", "full"])
def test_at_the_published_size_the_chosen_form_equals_the_dense_mask(name):
    layout = StreamLayout(text=256, rows=32, cols=32)
    pattern = Pattern(name=name, kernel=11 if name == "conv" else 0)
    form = choose_form(pattern, layout, CPU)
    sizes = {"batch": 1, "heads": 1, "width": 8}
    for got, expected in zip(
        with_gradients(form, layout, **sizes),
        with_gradients(dense(pattern, layout), layout, **sizes),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pattern", PATTERNS[:4], ids=str)
def test_gradients_of_windows_are_those_of_finite_differences(pattern):
    layout = StreamLayout(text=2, rows=3, cols=4)
    windows = cut_into_windows(pattern, layout)
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, 2, layout.length, 3)
    q, k, v = torch.randn(shape, generator=generator, dtype=torch.float64).unbind(0)
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *x: windowed_attention(*x, windows), inputs)


@pytest.mark.parametrize("pattern", PATTERNS[:4], ids=str)
def test_windows_in_bfloat16_are_as_near_as_dense_bfloat16(pattern):
    layout = StreamLayout(text=20, rows=6, cols=8)
    exact = with_gradients(dense(pattern, layout), layout, width=16)
    mask = dense_mask(pattern, layout)
    errors = [
        [
            (got.float() - reference).norm() / reference.norm()
            for got, reference in zip(
                with_gradients(form, layout, torch.bfloat16, width=16), exact, strict=True
            )
        ]
        for form in (
            partial(windowed_attention, windows=cut_into_windows(pattern, layout)),
            partial(dense_attention, mask=mask),
        )
    ]
    for ours, theirs in zip(*errors, strict=True):
        assert ours < 1.5 * theirs < 0.05


def test_windows_do_not_take_autocast_for_their_own_products():
    layout = StreamLayout(text=4, rows=4, cols=4)
    form = partial(windowed_attention, windows=cut_into_windows(PATTERNS[0], layout))
    plain = with_gradients(form, layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = with_gradients(form, layout)
    for got, expected in zip(inside, plain, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("name", "transposed", "window"),
    # 11 x 11 reaches 5 rows up, and across the edge of the grid into a sixth.
    [("row", False, 64), ("column", True, 32), ("conv", False, 224)],
)
def test_windows_of_the_published_size(name, transposed, window):
    pattern = Pattern(name=name, kernel=11 if name == "conv" else 0)
    windows = cut_into_windows(pattern, StreamLayout(text=256, rows=32, cols=32))
    assert (windows.transposed, windows.window) == (transposed, window)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_windows_hold_every_pair_of_the_mask_once(pattern, layout):
    image = dense_mask(pattern, layout)[layout.image_start :, layout.image_start :]
    assert cut_into_windows(pattern, layout).reads.sum() == image.sum()


def test_the_form_follows_from_sizes_alone():
    large = StreamLayout(text=256, rows=32, cols=32)
    small = StreamLayout(text=20, rows=8, cols=8)
    for name, form in (("row", windowed_attention), ("full", F.scaled_dot_product_attention)):
        assert choose_form(Pattern(name=name), large, CPU).func is form
        assert choose_form(Pattern(name=name), small, CPU).func is dense_attention
    # Windows read all text, which blocks need not.
    blocks = ("#" * (large.length // 16),) * (large.length // 16)
    of_blocks = Pattern(name="blocks", kernel=16, blocks=blocks)
    assert choose_form(of_blocks, large, CPU).func is dense_attention
    on_another_device = choose_form(Pattern(name="row"), large, torch.device("meta"))
    assert on_another_device.func is dense_attention


def test_long_streams_take_the_fused_kernel_and_say_the_same(monkeypatch):
    layout = StreamLayout(text=3, rows=4, cols=5)
    patterns = (PATTERNS[0], PATTERNS[4])
    plain = [with_gradients(partial(WholeStream(patterns, layout, CPU), i), layout) for i in (0, 1)]
    monkeypatch.setattr(attention, "LONGEST_DENSE", 1)
    fused = [with_gradients(partial(WholeStream(patterns, layout, CPU), i), layout) for i in (0, 1)]
    for got, expected in zip(fused, plain, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
