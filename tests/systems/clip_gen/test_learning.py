"""CLIP-GEN learns what vectors say; a gap takes that away, and mean removal gives it back."""

import pytest
import torch
from torch.nn import functional as F

from dalle.models.clip_gen import ClipGen, ClipGenConfig
from dalle.models.joint_condition import JointCondition
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling
from dalle.systems.clip_gen.task import drop

KINDS, SIZE = 6, 16


@pytest.fixture(scope="module")
def world():
    """Kinds of pictures: codes and a vector of each; their texts lie elsewhere by a constant."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 8, (KINDS, 6), generator=generator)
    images = F.normalize(torch.randn(KINDS, SIZE, generator=generator), dim=-1)
    constant = F.normalize(torch.randn(SIZE, generator=generator), dim=0)
    return codes, images, F.normalize(images + 4 * constant, dim=-1)


def trained(world, condition):
    codes, images, _ = world
    torch.manual_seed(0)
    config = ClipGenConfig(
        vector_size=SIZE,
        image_vocab=8,
        rows=2,
        cols=3,
        depth=2,
        width=32,
        heads=2,
        conv_kernel=3,
        init_gain=0.5,
        embedding_std=0.4,
    )
    model = ClipGen(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        kinds = torch.randint(0, KINDS, (32,))
        conditions = drop(condition.of_images(images[kinds]), 0.1)
        logits = model(conditions, codes[kinds])
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), codes[kinds].flatten()).backward()
        optimizer.step()
    return model.eval()


def right(model, conditions, codes, *, guidance=1.0):
    """The share of the codes that are as they should be."""
    sampling = Sampling(temperature=0.0, guidance=guidance)
    everyone = list(range(KINDS))
    drawn = sample_codes(model, conditions, prompt_of=everyone, seeds=everyone, sampling=sampling)
    return (drawn.codes.flatten(1) == codes).float().mean().item()


def recipe(world, *, center=False):
    _, images, texts = world
    means = (images.mean(dim=0), texts.mean(dim=0)) if center else (torch.empty(0),) * 2
    return JointCondition(
        clip="a",
        fingerprint="f",
        vector_size=SIZE,
        mean_image=tuple(means[0].tolist()),
        mean_text=tuple(means[1].tolist()),
    )


def test_vectors_say_which_picture_and_mean_removal_crosses_a_gap(world):
    codes, images, texts = world
    plain, centred = recipe(world), recipe(world, center=True)
    model = trained(world, plain)
    assert right(model, plain.of_images(images), codes) > 0.95
    assert right(model, plain.of_images(images), codes, guidance=1.5) > 0.95
    swapped = right(model, plain.of_images(images).roll(1, dims=0), codes)
    across = right(model, plain.of_texts(texts), codes)
    assert swapped < 0.5 and across < 0.7
    remedied = trained(world, centred)
    assert right(remedied, centred.of_texts(texts), codes) > 0.95
