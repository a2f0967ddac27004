"""Given their weights, our modules answer as DALLE-pytorch did."""

import pytest
import torch
from torch.nn import functional as F

from dalle.pretrained.dalle_pytorch import dalle_pt, vae_pt
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
