"""The blocks: the activation and the depth-scaled start."""

import torch

from dalle.nn.transformer import QuickGELU, Transformer


def test_quick_gelu_is_x_sigmoid_of_1702_x():
    x = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(QuickGELU()(x), x * torch.sigmoid(1.702 * x), atol=1e-6, rtol=1e-6)


def test_each_layer_attends_once_with_its_own_index_and_heads():
    seen = []

    def attend(layer, queries, keys, values, /):
        seen.append((layer, tuple(queries.shape)))
        return values

    model = Transformer(depth=3, width=12, heads=2)
    model(torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0)), attend)
    assert seen == [(i, (2, 2, 5, 6)) for i in range(3)]


def test_heads_are_split_so_that_each_reads_its_own_part():
    model = Transformer(depth=1, width=12, heads=3).eval()
    x = torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(0))

    def only(head):
        def attend(layer, queries, keys, values, /):
            mask = torch.zeros(1, 3, 1, 1)
            mask[:, head] = 1.0
            return values * mask

        return attend

    block = model.blocks[0]
    qkv = block.qkv(block.attention_norm(x))
    for head in range(3):
        part = torch.zeros(1, 4, 12)
        part[..., 4 * head : 4 * head + 4] = qkv[..., 24 + 4 * head : 28 + 4 * head]
        h = x + block.attention_out(part)
        expected = h + block.mlp_out(block.activation(block.mlp_in(block.mlp_norm(h))))
        torch.testing.assert_close(model(x, only(head)), model.norm(expected))
