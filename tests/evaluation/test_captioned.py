"""Numbers on captioned pictures: controls that must fall to chance, and exact small cases."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from dalle.data.shapes import ShapesSource
from dalle.errors import DataError
from dalle.evaluation.captioned import (
    Pairs,
    caption_use,
    read_pairs,
    reconstruction,
    retrieval,
    shuffle_within,
)
from dalle.models.clip import Clip, ClipConfig, TowerConfig
from dalle.models.dalle import Dalle, DalleConfig
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.tokenizers.image import DvaeTokenizer
from dalle.tokenizers.text import TextTokenizer


@pytest.fixture(scope="module")
def pairs():
    source = ShapesSource(24, size=32, seed=0)
    return read_pairs(source, image_size=(16, 16), group_of=lambda s: str(hash(s.key) % 1))


@pytest.fixture(scope="module")
def text_tokenizer(pairs):
    return TextTokenizer.train(pairs.captions, vocab_size=280)


@pytest.fixture(scope="module")
def image_tokenizer():
    torch.manual_seed(0)
    config = DvaeConfig(
        image_height=16, image_width=16, num_codes=20, hidden=8, groups=3, blocks=1, downsampling=4
    )
    return DvaeTokenizer(Dvae(config))


def test_shuffling_stays_in_the_group_and_leaves_nobody_their_own():
    groups = ["a"] * 5 + ["b"] * 3 + ["alone"]
    for seed in range(5):
        partner = shuffle_within(groups, seed=seed)
        assert sorted(partner) == list(range(9))
        assert all(groups[i] == groups[p] for i, p in enumerate(partner))
        assert [i for i, p in enumerate(partner) if i == p] == [8]


def test_a_fresh_model_knows_nothing_and_gains_nothing(pairs, text_tokenizer, image_tokenizer):
    config = DalleConfig(
        text_vocab=text_tokenizer.vocab_size,
        image_vocab=20,
        text_slots=24,
        rows=4,
        cols=4,
        depth=2,
        width=16,
        heads=2,
        conv_kernel=3,
    )
    torch.manual_seed(0)
    model = Dalle(config).eval()
    use = caption_use(model, text_tokenizer, image_tokenizer, pairs)
    assert use.true.mean == pytest.approx(math.log(20), rel=1e-5) == use.uniform
    assert use.gain.mean == pytest.approx(0.0, abs=1e-6)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    use = caption_use(model, text_tokenizer, image_tokenizer, pairs, batch_size=5)
    again = caption_use(model, text_tokenizer, image_tokenizer, pairs, batch_size=24)
    assert use.true.mean == pytest.approx(again.true.mean, rel=1e-5)
    assert use.gain.mean == pytest.approx(use.shuffled.mean - use.true.mean, rel=1e-3)
    assert use.none.mean != use.true.mean


def test_retrieval_of_a_random_clip_is_near_chance(pairs, text_tokenizer):
    torch.manual_seed(0)
    tower = TowerConfig(width=16, depth=1, heads=2)
    config = ClipConfig(
        image_height=16,
        image_width=16,
        text_vocab=text_tokenizer.vocab_size,
        text_slots=24,
        embed_dim=8,
        stem=(8,),
        patch=2,
        vision=tower,
        text=tower,
    )
    halves = Pairs(
        images=pairs.images, captions=pairs.captions, groups=tuple("ab"[i % 2] for i in range(24))
    )
    found = retrieval(Clip(config).eval(), text_tokenizer, halves)
    assert found.chance == pytest.approx(1 / 12)
    assert abs(found.text_to_image.mean - found.chance) < 4 * 0.06


def test_reconstruction_counts_codes_and_compares_with_a_flat_colour(pairs, image_tokenizer):
    result = reconstruction(image_tokenizer, pairs)
    codes = image_tokenizer.encode(pairs.images)
    assert result.codebook.codes_used == len(codes.unique())
    flat = pairs.images.mean(dim=(2, 3), keepdim=True)
    error = ((pairs.images - flat) ** 2).mean(dim=(1, 2, 3))
    expected = (-10 * torch.log10(error)).mean().item()
    assert result.mean_colour_psnr.mean == pytest.approx(expected, rel=1e-4)


def test_pictures_without_captions_are_left_out_and_none_at_all_is_an_error():
    class Silent:
        def __len__(self):
            return 2

        def __getitem__(self, index, /):
            sample = ShapesSource(2, size=32, seed=0)[index]
            return type(sample)(key=sample.key, image=sample.image, captions=())

    with pytest.raises(DataError, match="no picture has a caption"):
        read_pairs(Silent(), image_size=(16, 16), group_of=lambda s: Path(s.key).parent.name)
