"""Measures on captioned pictures: controls that fall to chance, and exact small cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dalle.data.shapes import ShapesSource
from dalle.errors import ConfigError, DataError, InputError
from dalle.evaluation.captioned_set import choose, shuffle_within
from dalle.evaluation.chart import Curve, chart
from dalle.evaluation.estimates import estimate, share
from dalle.evaluation.likelihood import likelihood
from dalle.evaluation.protocol import PROTOCOLS, Protocol, protocol_of
from dalle.evaluation.reconstruction import reconstructed, reconstruction
from dalle.evaluation.retrieval import clip_score, cosines, retrieval
from dalle.evaluation.ssim import ssim
from dalle.models.dalle import Dalle, DalleConfig
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.protocols import EncodedSample, Sample
from dalle.tokenizers.image import DvaeTokenizer
from dalle.tokenizers.text import TextTokenizer
from tests.fakes import fill_with_noise

CPU = torch.device("cpu")


class Listed:
    """Samples of which each has as many captions as it is told."""

    def __init__(self, *counts: int) -> None:
        self.counts = counts

    def __len__(self) -> int:
        return len(self.counts)

    def key(self, index: int) -> str:
        return f"{'ab'[index % 2]}/{index}.png"

    def __getitem__(self, index: int, /) -> Sample:
        image = ShapesSource(9, size=32, seed=0)[index].image
        captions = tuple(f"{index} said {k}" for k in range(self.counts[index]))
        return Sample(key=self.key(index), image=image, captions=captions)


@pytest.fixture(scope="module")
def chosen():
    return choose(ShapesSource(24, size=32, seed=0), num=None)


@pytest.fixture(scope="module")
def image_tokenizer():
    torch.manual_seed(0)
    config = DvaeConfig(
        image_height=16, image_width=16, num_codes=20, hidden=8, groups=3, blocks=1, downsampling=4
    )
    return DvaeTokenizer(Dvae(config))


def test_one_caption_of_each_picture_comes_first_then_a_second():
    source = Listed(3, 1, 0, 2)
    every = choose(source, num=6, seed=0)
    assert len(set(every.captions)) == 6
    assert sorted(every.captions[:3]) != sorted(every.captions[3:])
    assert sorted(i for i in every.picture_of[:3]) == [0, 1, 2]
    assert sorted(every.pictures) == [0, 1, 3]
    for caption, place in zip(every.captions, every.picture_of, strict=True):
        assert caption.startswith(f"{every.pictures[place]} said")
    assert choose(source, num=2, seed=0).captions == every.captions[:2]
    assert choose(source, num=None, seed=0).captions == every.captions[:3]
    assert choose(source, num=6, seed=1).captions != every.captions
    assert choose(source, num=6, seed=1).fingerprint != every.fingerprint
    with pytest.raises(InputError, match="6 captions were found; expected 7"):
        choose(source, num=7)
    with pytest.raises(InputError, match="0 captions were found"):
        choose(Listed(0, 0), num=None)


def test_groups_are_folders_and_shuffling_stays_in_them():
    found = choose(Listed(1, 1, 1, 1), num=None, by_folder=True)
    assert [g == "ab"[i % 2] for g, i in zip(found.groups, found.pictures, strict=True)] == [
        True
    ] * 4
    groups = ("a",) * 5 + ("b",) * 3 + ("alone",)
    for seed in range(5):
        partner = shuffle_within(groups, seed=seed)
        assert sorted(partner) == list(range(9))
        assert all(groups[i] == groups[p] for i, p in enumerate(partner))
        assert [i for i, p in enumerate(partner) if i == p] == [8]


def test_codes_in_place_of_pictures_are_refused():
    class Codes(Listed):
        def __getitem__(self, index: int, /) -> EncodedSample:  # type: ignore[override]
            return EncodedSample(key="0", codes=np.zeros((1, 2, 2)), captions=("a",))

    with pytest.raises(DataError, match="holds codes"):
        choose(Codes(1), num=None).crop(0, (16, 16))


def test_a_fresh_model_knows_nothing_and_gains_nothing(chosen, image_tokenizer):
    text_tokenizer = TextTokenizer.train(chosen.captions, vocab_size=280)
    config = DalleConfig(
        text_vocab=text_tokenizer.vocab_size,
        image_vocab=20,
        text_slots=100,
        rows=4,
        cols=4,
        depth=2,
        width=16,
        heads=2,
        conv_kernel=3,
    )
    torch.manual_seed(0)
    model = Dalle(config).eval()
    codes = reconstruction(image_tokenizer, chosen, CPU).codes
    found = likelihood(model, text_tokenizer, chosen, codes)
    assert found.image.mean == pytest.approx(math.log(20), rel=1e-5) == found.image_uniform
    assert found.text.mean == pytest.approx(math.log(281), rel=1e-5) == found.text_uniform
    assert found.gain.mean == pytest.approx(0.0, abs=1e-6)
    fill_with_noise(model, std=0.5)
    found = likelihood(model, text_tokenizer, chosen, codes)
    assert found.gain.mean == pytest.approx(found.shuffled.mean - found.image.mean, rel=1e-3)
    assert found.none.mean != found.image.mean
    # By hand, for the first caption alone.
    ids = text_tokenizer.encode(chosen.captions[0])
    stream = text_tokenizer.encode_stream(chosen.captions[0], slots=100).ids
    output = model(torch.from_numpy(stream)[None], codes[:1].flatten(1).long())
    log_probs = torch.log_softmax(output.text[0], dim=1)
    nll = -torch.stack([log_probs[j, t] for j, t in enumerate([*ids, 280])]).mean()
    first = replace(chosen, captions=chosen.captions[:1], picture_of=(0,), groups=("",))
    alone = likelihood(model, text_tokenizer, first, codes)
    assert alone.text.mean == pytest.approx(nll.item(), rel=1e-4)
    assert alone.text.error is None
    assert alone.text_tokens != found.text_tokens
    assert alone.image_codes == found.image_codes


def test_reconstruction_counts_codes_and_compares_with_a_flat_colour(
    chosen, image_tokenizer, monkeypatch
):
    monkeypatch.setattr("dalle.evaluation.reconstruction.PIXELS_AT_ONCE", 16 * 16 * 5)
    found = reconstruction(image_tokenizer, chosen, CPU)
    crops = np.stack([chosen.crop(i, (16, 16)) for i in range(24)])
    images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    codes = image_tokenizer.encode(images)
    assert torch.equal(found.codes, codes.int())
    assert found.codebook.codes_used == len(codes.unique())
    flat = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    error = ((images - flat) ** 2).mean(dim=(1, 2, 3))
    assert found.flat_psnr.mean == pytest.approx((-10 * error.log10()).mean().item(), rel=1e-4)
    back = image_tokenizer.decode(codes)
    assert found.ssim.mean == pytest.approx(ssim(images, back).mean().item())
    pixels = np.stack([np.asarray(p) for p in reconstructed(image_tokenizer, found.codes, CPU)])
    assert np.abs(pixels / 255 - back.permute(0, 2, 3, 1).numpy()).max() < 0.5 / 255 + 1e-6


def unit(n: int, d: int) -> torch.Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    return nn.functional.normalize(x, dim=1)


def test_retrieval_finds_its_own_and_nothing_when_shuffled():
    own = unit(40, 8)
    groups = tuple("abab"[i % 4] for i in range(40))
    found = retrieval(own, own, groups, k=1)
    assert (found.text_to_image.mean, found.image_to_text.mean) == (1, 1)
    assert found.shuffled.mean == 0
    assert found.chance == pytest.approx(1 / 20)
    noise = retrieval(own, unit(41, 8)[:40], groups, k=5)
    assert noise.chance == pytest.approx(5 / 20)
    assert abs(noise.text_to_image.mean - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 40)
    same = torch.ones(40, 8)
    assert retrieval(same, same, groups, k=1).text_to_image.mean == pytest.approx(1 / 20)


def test_cosines_scores_and_errors_by_hand():
    texts = torch.tensor([[1.0, 0], [1, 0]])
    images = torch.tensor([[0.6, 0.8], [-1, 0]])
    own = cosines(texts, images)
    assert own.tolist() == pytest.approx([0.6, -1])
    assert clip_score(own).tolist() == pytest.approx([1.5, 0])
    assert estimate(torch.tensor([1.0, 3.0])).error == pytest.approx(1)  # deviation √2, over √2
    assert share(0.5, 100).error == pytest.approx(0.05)


def test_a_protocol_is_published_only_as_it_was():
    coco = protocol_of("coco", captions=None, samples=512, blur=None)
    assert coco is PROTOCOLS["coco"]
    assert (coco.captions, coco.best_of[-1], coco.blur) == (30_000, 512, (0, 1, 2, 4, 8))
    assert protocol_of("coco", captions=100).name == "own"
    assert Protocol(samples=1).best_of == (1,)
    assert Protocol(samples=6).best_of == (1, 2, 4, 6)
    assert Protocol(samples=8).best_of == (1, 2, 4, 8)
    for wrong in ({"captions": 1}, {"samples": 0}, {"blur": (1.0,)}, {"blur": (0.0, -1.0)}):
        with pytest.raises(ConfigError):
            Protocol(**wrong)


def test_a_curve_goes_up_where_its_values_do():
    values = (1.0, 2.0, 4.0)
    picture = np.asarray(
        chart("t", across="n", places=["1", "2", "4"], curves=[Curve(name="a", values=values)])
    )
    rows, cols = np.nonzero((picture == (37, 99, 235)).all(axis=2))
    left, right = rows[cols < 200].mean(), rows[cols > 450].mean()
    assert left > right + 100
