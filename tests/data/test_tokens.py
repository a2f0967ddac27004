"""A source as codes: the same as tokenizing each picture when it is read."""

from random import Random

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from dalle.data.shapes import ShapesSource
from dalle.data.tokens import encode_source
from dalle.data.transforms import center_crop, dalle_augment, to_float
from dalle.errors import DataError


class MeanTokenizer:
    """The mean of each 4 x 4 cell in 50 steps: codes that differ from picture to picture."""

    vocab_size, image_size, grid = 50, (16, 16), (4, 4)

    def encode(self, images):
        return (avg_pool2d(images.mean(dim=1), 4) * 49).round().long()

    def decode(self, codes):
        return (codes / 49)[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3)


@pytest.fixture
def tokenizer():
    return MeanTokenizer()


def centre(sample, random):
    return center_crop(sample.image, height=16, width=16)


def augmented(sample, random):
    return dalle_augment(sample.image, random, height=16, width=16)


def test_codes_and_captions_are_those_of_each_picture(tokenizer):
    source = ShapesSource(7, size=32, seed=0)
    encoded = encode_source(source, tokenizer, centre, batch_size=3)
    assert len(encoded) == 7
    for index in range(7):
        pixels = torch.from_numpy(centre(source[index], Random(0)))[None]
        expected = tokenizer.encode(to_float(pixels))[0].numpy()
        assert np.array_equal(encoded[index].codes[0], expected)
        assert encoded[index].captions == source[index].captions
        assert encoded[index].key == source[index].key


def test_views_differ_and_are_the_same_again(tokenizer):
    source = ShapesSource(4, size=32, seed=0)
    first, again = (
        encode_source(source, tokenizer, augmented, views=3, batch_size=b) for b in (2, 100)
    )
    assert first.codes.shape == (4, 3, 4, 4) and first.codes.dtype == np.uint16
    assert np.array_equal(first.codes, again.codes)
    assert not np.array_equal(first.codes[:, 0], first.codes[:, 1])


def test_a_damaged_sample_stays_damaged_and_in_its_place(tokenizer):
    whole = ShapesSource(5, size=32, seed=0)

    class OneBad:
        def __len__(self):
            return 5

        def __getitem__(self, index, /):
            if index == 2:
                raise DataError("picture 2 is broken")
            return whole[index]

    seen = []
    encoded = encode_source(OneBad(), tokenizer, centre, progress=seen.append)
    assert sum(seen) == len(encoded) == 5
    with pytest.raises(DataError, match="picture 2 is broken"):
        encoded[2]
    assert np.array_equal(encoded[3].codes, encode_source(whole, tokenizer, centre)[3].codes)
