"""Every way in which the versions stored a model loads to the same one, and nothing else does."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.nn.masks import Pattern
from dalle.pretrained.dalle_pytorch import dalle_pt, vae_pt
from dalle.pretrained.dalle_pytorch.hyperparameters import Codes
from dalle.pretrained.dalle_pytorch.model import DallePytorch
from dalle.pretrained.dalle_pytorch.rotary import angles
from tests.pretrained.dalle_pytorch import originals

INNER = re.compile(r"(transformer\..*?)((?:fn\.)+)((?:to_qkv|to_out|net|attn_fn)\..*)")


def convert(value: dict[str, Any]) -> DallePytorch:
    module = dalle_pt.convert(originals.source(value)).module
    assert isinstance(module, DallePytorch)
    return module


def check_answers(name: str, model: DallePytorch) -> None:
    answers = originals.answers(name)
    text = originals.to_our_ids(answers["text"], model.text_vocab)
    slots = answers["text"].shape[1]
    expected = answers["logits"][:, slots:, model.text_vocab + slots :]
    got = model(text, answers["image_codes"]).image
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def stored(value: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    return {**value, "weights": {rename(name): t for name, t in value["weights"].items()}}


def as_deep(name: str, before_qkv: int, before_net: int) -> str:
    """The name with other numbers of `fn` before what a branch computes."""
    match = INNER.fullmatch(name)
    if match is None:
        return name
    count = before_net if match[3].startswith("net") else before_qkv
    return match[1] + "fn." * count + match[3]


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("a", (3, 3)),  # 1.0 to 1.2.2, shifted
        ("a", (5, 4)),  # from 1.4, shifted
        ("d", (3, 3)),  # the same, reversible
        ("d", (5, 4)),
        ("b", (2, 2)),  # 0.8 to 1.2.2
        ("b", (3, 2)),  # from 1.4
        ("c", (2, 2)),
        ("c", (3, 2)),
    ],
)
def test_every_depth_of_names_loads(name: str, depths: tuple[int, int]) -> None:
    value = stored(originals.dalle_pt(name), lambda key: as_deep(key, *depths))
    model = convert(value)
    assert model.config.token_shift == (depths in ((3, 3), (5, 4)))
    check_answers(name, model)


def test_depths_of_no_version_are_refused() -> None:
    for depths in ((4, 4), (2, 3)):
        value = stored(originals.dalle_pt("b"), lambda key, d=depths: as_deep(key, *d))
        with pytest.raises(CheckpointError, match="together of no version"):
            convert(value)
    value = originals.dalle_pt("b")
    first = next(key for key in value["weights"] if key.endswith("to_qkv.weight"))
    value = stored(value, lambda key: as_deep(key, 5, 2) if key == first else key)
    with pytest.raises(CheckpointError, match="same depth"):
        convert(value)


def test_both_spellings_of_the_axial_positions_load() -> None:
    value = stored(
        originals.dalle_pt("b"),
        lambda key: key.replace("image_pos_emb.weights.", "image_pos_emb.weights_"),
    )
    assert "image_pos_emb.weights_0" in value["weights"]
    check_answers("b", convert(value))


def test_the_rotary_table_is_taken_from_the_file_in_either_shape() -> None:
    value = originals.dalle_pt("d")
    table = angles(convert(value).layout, 24)
    for shaped in (table[None], table[None, None, :-1]):
        weights = {**value["weights"], "transformer.pos_emb": shaped}
        check_answers("d", convert({**value, "weights": weights}))
    weights = {**value["weights"], "transformer.pos_emb": table[None] * 0.5}
    with pytest.raises(AssertionError):
        check_answers("d", convert({**value, "weights": weights}))
    for wrong in (table[None, :-2], table[None, :, :-1], table[0, 0]):
        weights = {**value["weights"], "transformer.pos_emb": wrong}
        with pytest.raises(CheckpointError, match=r"transformer\.pos_emb"):
            convert({**value, "weights": weights})


def test_what_old_files_hold_besides_is_ignored() -> None:
    value = originals.dalle_pt("b")
    value["weights"]["logits_mask"] = torch.zeros(1, 22, 78, dtype=torch.bool)
    check_answers("b", convert(value))


def test_hparams_of_0_9_mean_what_they_meant_then() -> None:
    value = originals.dalle_pt("b")
    base = ("num_text_tokens", "text_seq_len", "dim", "depth", "heads", "dim_head")
    hparams = {name: value["hparams"][name] for name in base}
    config = convert({**value, "hparams": hparams, "version": None}).config
    assert set(config.attention) == {"full"}
    assert not (config.stable or config.rotary or config.token_shift or config.reversible)
    assert config.attention_of == config.mlp_of == (0, 1, 2)


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("1.6.6", Pattern(name="box", kernel=5)),
        ("1.5.0", Pattern(name="box", kernel=5)),
        ("1.4.2", Pattern(name="square", kernel=5)),
        (None, Pattern(name="square", kernel=5)),
    ],
)
def test_conv_like_reads_what_its_version_read(version: str | None, kind: Pattern) -> None:
    model = convert(originals.dalle_pt("b", version=version))
    assert model.patterns == (Pattern(name="grid_row"), Pattern(name="column"), kind)


def test_shared_layers_are_held_once_and_may_be_named_by_strings() -> None:
    value = originals.dalle_pt("c")
    by_words = {**value["hparams"], "shared_attn_ids": ("0", "1"), "shared_ff_ids": ("x", "y")}
    model = convert({**value, "hparams": by_words})
    assert model.config.attention_of == model.config.mlp_of == (0, 1, 0, 1)
    assert len(model.stack.attentions) == len(model.stack.mlps) == 2
    check_answers("c", model)


def sparse_file(table: Tensor) -> dict[str, Any]:
    """The second original with two of its layers made sparse: 32 slots are two blocks of 16."""
    value = originals.dalle_pt("b")
    hparams = {
        **value["hparams"],
        "attn_types": ("full", "sparse", "sparse"),
        "text_seq_len": 16,
        "num_text_tokens": 30,
    }
    weights = {**value["weights"], "text_pos_emb.weight": torch.randn(17, 32)}
    for layer in (1, 2):
        weights[f"transformer.layers.layers.{layer}.0.fn.fn.fn.attn_fn.master_layout"] = table
    return {**value, "hparams": hparams, "weights": weights}


def test_sparse_layers_read_the_blocks_of_their_table() -> None:
    table = torch.tensor([[1, 0], [1, 1]])
    model = convert(sparse_file(table.expand(2, -1, -1)))
    blocks = Pattern(name="blocks", kernel=16, blocks=("#.", "##"))
    assert model.patterns == (Pattern(name="full"), blocks, blocks)
    for wrong in (torch.stack([table, table * 0]), torch.ones(2, 3, 3), torch.ones(2)):
        with pytest.raises(CheckpointError, match=r"1\.0\.fn\.fn\.fn\.attn_fn\.master_layout"):
            convert(sparse_file(wrong))
    value = sparse_file(table.expand(2, -1, -1))
    del value["weights"]["transformer.layers.layers.2.0.fn.fn.fn.attn_fn.master_layout"]
    with pytest.raises(CheckpointError, match="the table of them is gone"):
        convert(value)


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_a_tensor_missing_renamed_or_misshapen_is_refused_by_its_name(name: str) -> None:
    value = originals.dalle_pt(name)
    whole = {k: t for k, t in value["weights"].items() if not k.startswith("vae.")}

    def refused(weights: dict[str, Tensor], about: str) -> None:
        with pytest.raises(CheckpointError, match=re.escape(about)):
            dalle_pt.convert_decoder(
                value["hparams"], "1.6.6", weights, Codes(vocab=32, grid=(4, 4)), originals.PATH
            )

    for key, tensor in whole.items():
        if re.search(r"\.(layers|blocks)\.[13]\.", key):
            continue  # they are as the layers before them
        others = {k: t for k, t in whole.items() if k != key}
        refused(others, key)
        refused({**others, f"{key}x": tensor}, key)
        refused({**others, key: tensor.new_zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)}, key)
    refused({**whole, f"{key}.more_of_it": tensor}, "more_of_it")


def test_a_vae_within_that_is_not_whole_is_refused_by_the_name() -> None:
    value = originals.dalle_pt("a")
    for key in ("vae.codebook.weight", "vae.encoder.0.0.bias", "vae.decoder.4.weight"):
        weights = {k: t for k, t in value["weights"].items() if k != key}
        with pytest.raises(CheckpointError, match=re.escape(key.removeprefix("vae."))):
            convert({**value, "weights": weights})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, r"layers\.layers\.3"),
        ({"shift_tokens": False}, "shift_tokens.*False.*True"),
        ({"rotary_emb": False}, "rotary_emb.*False.*True"),
        ({"reversible": True}, "reversible.*True.*False"),
        ({"share_input_output_emb": True}, "share_input_output_emb.*True.*False"),
        ({"dim": 64}, r"shape .*32.*64"),
        ({"heads": "two"}, "heads.*two"),
        ({"heads": 4}, "to_qkv.*shape"),
        ({"attn_types": ("full", "mlp")}, "mlp.*of versions 1.0.0 to 1.4.0"),
        ({"attn_types": 3}, "attn_types"),
        ({"shared_attn_ids": ()}, "shared_attn_ids"),
        ({"num_text_tokens": None}, "num_text_tokens.*None"),
        ({"num_text_tokens": 46}, "before 0.9"),
    ],
)
def test_hparams_that_contradict_the_tensors_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    value = originals.dalle_pt("a")
    value["weights"]["transformer.pos_emb"] = torch.zeros(1, 23, 24)
    with pytest.raises(CheckpointError, match=message):
        convert({**value, "hparams": {**value["hparams"], **changes}})


def test_older_and_stranger_files_are_refused_with_what_they_are() -> None:
    value = originals.dalle_pt("b")
    old = stored(value, lambda key: key.replace(".fn.norm.", ".norm.").replace(".fn.fn.", ".fn."))
    with pytest.raises(CheckpointError, match=r"before 0\.9"):
        convert(old)
    with pytest.raises(CheckpointError, match="without `hparams`"):
        convert(value["weights"])
    with pytest.raises(CheckpointError, match="its version is 3"):
        convert({**value, "version": 3})
    without = {k: t for k, t in value["weights"].items() if not k.startswith("vae.")}
    with pytest.raises(CheckpointError, match="no image tokenizer"):
        convert({**value, "weights": without})
    assert dalle_pt.recognise(originals.source({"layers.0.weight": torch.zeros(1)})) is None


def vae_file(**changes: Any) -> dict[str, Any]:
    """A `vae.pt`, its tensors written from the table of names."""
    sizes = {
        "image_size": 16,
        "num_layers": 2,
        "num_tokens": 12,
        "codebook_dim": 6,
        "hidden_dim": 8,
        "num_resnet_blocks": 1,
        "channels": 3,
        **changes,
    }
    layers, blocks, hidden, colours = (
        sizes[name] for name in ("num_layers", "num_resnet_blocks", "hidden_dim", "channels")
    )
    first = min(blocks, 1)
    shapes: dict[str, list[int]] = {"codebook.weight": [sizes["num_tokens"], 6]}

    def conv(name: str, *shape: int, bias: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = list(shape), [bias]

    for layer in range(layers):
        conv(f"encoder.{layer}.0", hidden, hidden if layer else colours, 4, 4, bias=hidden)
        inputs = hidden if layer or blocks else 6
        conv(f"decoder.{first + blocks + layer}.0", inputs, hidden, 4, 4, bias=hidden)
    for block in range(blocks):
        for side, place in (("encoder", layers + block), ("decoder", 1 + block)):
            for inner, kernel in ((0, 3), (2, 3), (4, 1)):
                conv(f"{side}.{place}.net.{inner}", hidden, hidden, kernel, kernel, bias=hidden)
    if blocks:
        conv("decoder.0", hidden, 6, 1, 1, bias=hidden)
    conv(f"encoder.{layers + blocks}", sizes["num_tokens"], hidden, 1, 1, bias=sizes["num_tokens"])
    conv(f"decoder.{first + blocks + layers}", colours, hidden, 1, 1, bias=colours)
    return {"hparams": sizes, "weights": originals.filled(shapes)}


@pytest.mark.parametrize("blocks", [0, 1, 2])
@pytest.mark.parametrize("channels", [3, 4])
def test_vaes_with_and_without_blocks_and_transparency_load(blocks: int, channels: int) -> None:
    value = vae_file(num_resnet_blocks=blocks, channels=channels)
    vae = vae_pt.convert(originals.source(value)).module
    codes = vae.codes_of(torch.rand(2, 3, 16, 16))
    assert codes.shape == (2, 4, 4)
    pictures = vae.pictures_of(codes)
    assert pictures.shape == (2, 3, 16, 16)
    assert 0 <= pictures.min() < pictures.max() <= 1


def test_transparent_parts_are_white_and_given_pictures_opaque() -> None:
    vae = vae_pt.convert(originals.source(vae_file(channels=4))).module
    codes = torch.zeros(1, 4, 4, dtype=torch.long)
    with torch.no_grad():
        vae.to_pixels.bias[3] = -100.0
    assert (vae.pictures_of(codes) == 1).all()
    picture = torch.rand(1, 3, 16, 16)
    opaque = torch.cat([picture * 2 - 1, torch.ones(1, 1, 16, 16)], dim=1)
    x = torch.relu(vae.down[1](torch.relu(vae.down[0](opaque))))
    expected = vae.to_logits(vae.encoder_blocks[0](x))
    torch.testing.assert_close(vae.encode_logits(picture), expected)


def test_a_vae_that_is_not_whole_is_refused_by_the_name() -> None:
    value = vae_file()
    for key, tensor in value["weights"].items():
        others = {k: t for k, t in value["weights"].items() if k != key}
        wrong = tensor.new_zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)
        for damaged in (others, {**others, f"{key}x": tensor}, {**others, key: wrong}):
            with pytest.raises(CheckpointError, match=re.escape(key)):
                vae_pt.convert(originals.source({**value, "weights": damaged}))
    for changes, message in (
        ({"image_size": None}, "image_size"),
        ({"image_size": 18}, "multiple of 4"),
        ({"num_layers": 3}, r"encoder\.2\.0"),
        ({"num_tokens": 13}, "codebook"),
    ):
        wrong_hparams = {**value["hparams"], **changes}
        with pytest.raises(CheckpointError, match=message):
            vae_pt.convert(originals.source({**value, "hparams": wrong_hparams}))
