"""Given their weights, our modules answer as DALLE-pytorch did."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dalle.errors import CheckpointError
from dalle.pretrained.dalle_pytorch import clip_pt, dalle_pt, vae_pt
from tests.pretrained.dalle_pytorch import originals

NO_LOGIT = -1e29


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_logits_and_loss_are_the_originals(name: str) -> None:
    model = dalle_pt.convert(originals.source(originals.dalle_pt(name))).module
    answers = originals.answers(name)
    vocab = model.config.text_vocab
    text = originals.to_our_ids(answers["text"], vocab)
    output = model(text, answers["image_codes"])

    expected, slots = answers["logits"], answers["text"].shape[1]
    words = vocab + slots
    torch.testing.assert_close(output.text, expected[:, :slots, :words], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.image, expected[:, slots:, words:], atol=1e-5, rtol=0)
    assert (expected[:, :slots, words:] < NO_LOGIT).all()
    assert (expected[:, slots:, :words] < NO_LOGIT).all()

    pads = vocab + torch.arange(slots)
    targets = torch.where(answers["text"] == 0, pads, answers["text"])
    of_text = F.cross_entropy(output.text.mT, targets)
    of_image = F.cross_entropy(output.image.mT, answers["image_codes"])
    torch.testing.assert_close((of_text + 7 * of_image) / 8, answers["loss"][0], atol=1e-5, rtol=0)


def test_codes_and_reconstruction_of_the_vae_are_the_originals() -> None:
    described, answers = originals.described("vae"), originals.answers("vae")
    value = {
        "hparams": described["config"],
        "weights": originals.filled(described["state_dict"]),
    }
    vae = vae_pt.convert(originals.source(value)).module
    logits = vae.encode_logits(answers["image"])
    torch.testing.assert_close(logits, answers["logits"], atol=1e-5, rtol=0)
    codes = vae.codes_of(answers["image"])
    assert torch.equal(codes.flatten(1), answers["codes"])
    decoded = vae.decode_codes(codes)
    torch.testing.assert_close(decoded, answers["reconstruction"], atol=1e-5, rtol=0)
    pictures = vae.pictures_of(codes)
    expected = (answers["reconstruction"] / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=0)


def test_openais_vae_in_a_dalle_pt_is_openais() -> None:
    described = json.loads((originals.GOLDEN / "openai_dvae.json").read_text())["state_dict"]
    answers = load_file(originals.GOLDEN / "openai_dvae.safetensors")
    tensors = {"to_logits.0.weight": torch.ones(1)}
    for side in ("encoder", "decoder"):
        for key, tensor in originals.filled(described[side]).items():
            tensors[f"vae.{side[:3]}.{key}"] = tensor
    vae = dalle_pt.convert_vae(tensors, None, path=originals.PATH)
    assert torch.equal(vae.codes_of(answers["image"]), answers["codes"])


def test_a_vqgan_in_a_dalle_pt_is_tamings() -> None:
    described = json.loads((originals.GOLDEN / "taming_vqgan.json").read_text())["state_dict"]
    answers = load_file(originals.GOLDEN / "taming_vqgan.safetensors")
    tensors = {f"vae.model.{key}": t for key, t in originals.filled(described).items()}
    tensors["vae.model.loss.logvar"] = torch.ones(1)
    vae = dalle_pt.convert_vae(tensors, None, path=originals.PATH)
    codes = vae.codes_of(answers["image"])
    assert torch.equal(codes.flatten(), answers["codes"].flatten())


def clip_file() -> dict[str, Tensor]:
    return originals.filled(originals.described("clip")["state_dict"])


def test_similarity_and_loss_of_the_clip_are_the_originals() -> None:
    clip = clip_pt.convert(originals.source(clip_file())).module
    answers = originals.answers("clip")
    texts = clip.encode_ids(answers["text"], answers["text_mask"])
    images = clip.encode_image(answers["image"])
    by_text = texts @ images.T * clip.logit_scale.exp()
    torch.testing.assert_close(by_text.diagonal(), answers["similarity"], atol=1e-5, rtol=0)
    own = torch.arange(len(texts))
    loss = (F.cross_entropy(by_text, own) + F.cross_entropy(by_text.T, own)) / 2
    torch.testing.assert_close(loss, answers["loss"][0], atol=1e-5, rtol=0)


def test_the_clip_reads_our_stream_as_its_ids() -> None:
    clip = clip_pt.convert(originals.source(clip_file())).module
    ids = torch.tensor([[27, 7, 0, 0, 0, 0]])
    stream = originals.to_our_ids(ids, clip.config.text_vocab)
    torch.testing.assert_close(clip.encode_text(stream), clip.encode_ids(ids, None))


def test_a_clip_that_is_not_whole_is_refused_by_the_name() -> None:
    state = clip_file()
    for key, tensor in state.items():
        if ".layers.layers.1." in key:
            continue  # as the layer before it
        others = {k: t for k, t in state.items() if k != key}
        for damaged in (others, {**others, f"{key}x": tensor}, {**state, f"{key}.more": tensor}):
            with pytest.raises(CheckpointError, match=re.escape(key)):
                clip_pt.convert(originals.source(damaged))
    for key in ("visual_pos_emb.weight", "to_visual_embedding.weight", "to_visual_latent.weight"):
        wrong = state[key].new_zeros(state[key].shape[0] + 1, state[key].shape[1] + 1)
        with pytest.raises(CheckpointError, match="visual"):
            clip_pt.convert(originals.source({**state, key: wrong}))
