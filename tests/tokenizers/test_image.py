"""Pictures to codes and back."""

import pytest
import torch

from dalle.errors import InputError
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.tokenizers.image import DvaeTokenizer


@pytest.fixture
def dvae() -> Dvae:
    torch.manual_seed(0)
    return Dvae(
        DvaeConfig(image_height=8, image_width=16, num_codes=9, hidden=8, groups=3, downsampling=4)
    )


def test_chunks_do_not_matter(dvae: Dvae) -> None:
    images = torch.rand(5, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    whole, parts = DvaeTokenizer(dvae), DvaeTokenizer(dvae, chunk=2)
    codes = whole.encode(images)
    assert codes.shape == (5, 2, 4) and codes.dtype == torch.long
    assert torch.equal(parts.encode(images), codes)
    torch.testing.assert_close(parts.decode(codes), whole.decode(codes))
    assert whole.decode(codes).amin() >= 0 and whole.decode(codes).amax() <= 1


def test_codes_are_the_argmax_without_noise(dvae: Dvae) -> None:
    images = torch.rand(2, 3, 8, 16)
    expected = dvae.encode_logits(images).argmax(dim=1)
    for seed in range(3):
        torch.manual_seed(seed)
        assert torch.equal(DvaeTokenizer(dvae).encode(images), expected)


def test_nothing_is_as_good_as_something(dvae: Dvae) -> None:
    tokenizer = DvaeTokenizer(dvae)
    assert tokenizer.encode(torch.zeros(0, 3, 8, 16)).shape == (0, 2, 4)
    assert tokenizer.decode(torch.zeros(0, 2, 4, dtype=torch.long)).shape == (0, 3, 8, 16)


def test_wrong_sizes_and_codes_are_refused(dvae: Dvae) -> None:
    tokenizer = DvaeTokenizer(dvae)
    with pytest.raises(InputError, match=r"\(16, 8\).*takes \(8, 16\)"):
        tokenizer.encode(torch.zeros(1, 3, 16, 8))
    with pytest.raises(InputError, match=r"0 to 9; the codebook has 0 \.\.\. 8"):
        tokenizer.decode(torch.tensor([[[0, 1, 2, 9], [0, 0, 0, 0]]]))


def test_the_tokenizer_is_frozen(dvae: Dvae) -> None:
    DvaeTokenizer(dvae)
    assert not any(p.requires_grad for p in dvae.parameters()) and not dvae.training
