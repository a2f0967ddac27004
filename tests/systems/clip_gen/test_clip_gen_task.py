"""What CLIP-GEN is trained on: vectors, noise, dropped conditions, and the second loss."""

import math
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dalle.errors import CheckpointError, ConfigError, DataError
from dalle.models.clip_gen import ClipGenConfig
from dalle.models.joint_condition import JointCondition
from dalle.models.vqgan import Vqgan, VqganConfig
from dalle.protocols import EncodedSample
from dalle.sampling.joint_prompts import JointPrompts
from dalle.sampling.rerank import ClipReranker
from dalle.systems.clip_gen.embedding_loss import embedding_loss, straight_through
from dalle.systems.clip_gen.task import ClipGenObjective, ClipGenTask, drop
from dalle.tokenizers.image import DvaeTokenizer
from tests.fakes import (
    FlatTokenizer,
    batch_of,
    fill_with_noise,
    noise_sample,
    tiny_clip,
    tiny_dvae,
    tiny_text_tokenizer,
)


@pytest.fixture(scope="module")
def embedder():
    tokenizer = tiny_text_tokenizer()
    return ClipReranker(tiny_clip(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def codec():
    return DvaeTokenizer(tiny_dvae())


def prompts_of(embedder, **recipe):
    condition = JointCondition(
        clip="tiny", fingerprint=embedder.fingerprint(), vector_size=8, **recipe
    )
    return JointPrompts(condition, embedder)


def make_task(embedder, codec, *, xi=0.0, config=None, prompts=(), **objective):
    sizes = {"image_vocab": 16, "rows": 4, "cols": 3, "vector_size": 8, **(config or {})}
    return ClipGenTask(
        ClipGenConfig(**sizes, depth=2, width=16, heads=2, conv_kernel=3),
        prompts=prompts_of(embedder, xi=xi),
        image_tokenizer=codec,
        objective=ClipGenObjective(**objective),
        preview_prompts=prompts,
    )


def random_model(task, seed=0):
    torch.manual_seed(seed)
    model = task.build()
    fill_with_noise(model, std=0.3)
    return model


def make_sample(seed=0, captions=("a red cube",)):
    return noise_sample(16, 12, seed=seed, captions=captions)


def make_batch(task, count=4):
    return batch_of(task, [make_sample(seed=i) for i in range(count)])


def test_the_loss_is_that_of_the_codes_alone_and_starts_at_the_logarithm(embedder, codec):
    task = make_task(embedder, codec)
    batch = make_batch(task)
    assert batch.counts == {"image": 48.0, "pictures": 4.0}
    loss = task.loss(task.build(), batch, step=0, counts=batch.counts)
    assert set(loss.metrics) == {"loss", "loss_image"}
    assert loss.total.item() == pytest.approx(math.log(16), rel=1e-5)


def test_captions_change_nothing(embedder, codec):
    task = make_task(embedder, codec)
    reads = [
        task.read(make_sample(captions=said), Random(0), train=True)
        for said in ((), ("one",), ("two", "three"))
    ]
    assert all(set(read) == {"image"} for read in reads)
    assert all(np.array_equal(read["image"], reads[0]["image"]) for read in reads)


def test_a_picture_gives_the_vector_and_the_codes_of_the_same_crop(embedder, codec):
    task = make_task(embedder, codec)
    batch = make_batch(task, count=2)
    images = torch.stack(
        [torch.from_numpy(np.array(make_sample(seed=i).image)) / 255 for i in range(2)]
    )
    images = images.permute(0, 3, 1, 2)
    torch.testing.assert_close(batch.tensors["vectors"], embedder.encode_images(images))
    assert torch.equal(batch.tensors["codes"], codec.encode(images).flatten(1))


def test_a_view_of_the_codes_comes_with_its_own_vector(embedder, codec):
    task = make_task(embedder, codec)
    views = np.arange(3)
    codes = np.broadcast_to(views[:, None, None], (3, 4, 3)).astype(np.uint16)
    vectors = np.broadcast_to(views[:, None], (3, 8)).astype(np.float32)
    sample = EncodedSample(key="x", codes=codes, captions=(), vectors=vectors)
    seen = set()
    for seed in range(20):
        read = task.read(sample, Random(seed), train=True)
        assert {*read["codes"].flatten(), *read["vectors"]} == {read["codes"][0, 0]}
        seen.add(int(read["codes"][0, 0]))
    assert seen == {0, 1, 2}
    assert task.read(sample, Random(7), train=False)["vectors"][0] == 0
    with pytest.raises(DataError, match="without as many vectors"):
        task.read(EncodedSample(key="x", codes=codes, captions=()), Random(0), train=True)


def test_means_are_over_all_codes_however_they_are_split(embedder, codec):
    task = make_task(embedder, codec, condition_dropout=0.0, embedding_weight=0.5)
    model, batch = random_model(task), make_batch(task)
    whole = task.loss(model, batch, step=0, counts=batch.counts)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        tensors = {name: tensor[rows] for name, tensor in batch.tensors.items()}
        part = type(batch)(tensors=tensors, counts={})
        parts.append(task.loss(model, part, step=0, counts=batch.counts).total)
    torch.testing.assert_close(sum(parts), whole.total)


def test_noise_and_dropping_are_drawn_in_training_alone(embedder, codec):
    task = make_task(embedder, codec, xi=2.0, condition_dropout=0.5)
    model, batch = random_model(task), make_batch(task)

    def trained(seed):
        torch.manual_seed(seed)
        return task.loss(model, batch, step=0, counts=batch.counts).total.item()

    assert trained(1) == trained(1) != trained(2)
    judged = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        judged.append(task.validate(model, [batch], step=0))
    assert judged[0] == judged[1]


def test_validation_says_what_the_vector_is_worth(embedder, codec):
    task = make_task(embedder, codec)
    model, batch = random_model(task), make_batch(task)
    found = task.validate(model, [batch], step=0)
    assert found["loss"] == found["loss_image"]
    own = batch.tensors["vectors"]
    for name, vectors in (
        ("loss_image", own),
        ("loss_image_other_vector", own.roll(1, dims=0)),
        ("loss_image_no_vector", torch.zeros_like(own)),
    ):
        logits = model(vectors, batch.tensors["codes"])
        expected = F.cross_entropy(logits.flatten(0, 1), batch.tensors["codes"].flatten())
        assert found[name] == pytest.approx(expected.item(), rel=1e-4)
    assert len(set(found.values())) == 3


def test_about_a_share_of_the_conditions_is_dropped_whole():
    torch.manual_seed(0)
    conditions = drop(torch.ones(2000, 3), 0.25)
    assert set(conditions.sum(dim=1).tolist()) == {0.0, 3.0}
    assert (conditions[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop(torch.ones(5, 3), 0.0), torch.ones(5, 3))


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_the_embedding_loss_reaches_the_weights_of_the_transformer(embedder, codec, distance):
    plain = make_task(embedder, codec, condition_dropout=0.0)
    task = make_task(
        embedder, codec, condition_dropout=0.0, embedding_weight=10.0, embedding_distance=distance
    )
    batch, gradients, totals = make_batch(task), [], []
    for one in (plain, task):
        model = random_model(one)
        loss = one.loss(model, batch, step=0, counts=batch.counts)
        loss.total.backward()
        gradients.append(model.transformer.blocks[0].qkv.weight.grad)
        totals.append(loss)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-5
    added = 10 * totals[1].metrics["loss_embedding"]
    torch.testing.assert_close(totals[1].total, totals[0].total + added)
    assert not any(p.grad is not None for p in embedder.clip.parameters() if not p.requires_grad)
    assert all(p.grad is None for p in codec.dvae.parameters())


def test_the_predicted_picture_is_that_of_the_most_likely_codes(embedder, codec):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(5, 12, 16, generator=generator)
    vectors = F.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    pictures = codec.decode(logits.argmax(dim=-1).unflatten(1, (4, 3)))
    found = embedder.encode_images(pictures)
    for distance, expected in (
        ("cosine", 1 - (found * vectors).sum(dim=-1)),
        ("mse", (found - vectors).square().mean(dim=-1)),
    ):
        loss = embedding_loss(
            logits, vectors, decoder=codec.model, embedder=embedder, grid=(4, 3), distance=distance
        )
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)


def test_straight_through_is_one_hot_forward_and_softmax_backward():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.arange(5.0)
    out = straight_through(logits)
    assert torch.equal(out.round(), F.one_hot(logits.argmax(dim=-1), 5).float())
    (ours,) = torch.autograd.grad((out * weights).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(dim=-1) * weights).sum(), logits)
    torch.testing.assert_close(ours, soft)


@pytest.mark.parametrize("quantizer", ["nearest", "nearest_direction", "gumbel"])
def test_a_vqgan_mixes_its_entries(quantizer):
    torch.manual_seed(0)
    sizes = {"image_height": 16, "image_width": 32, "num_codes": 7, "code_width": 5, "latent": 6}
    model = Vqgan(
        VqganConfig(
            **sizes, channels=32, multipliers=(1, 1), blocks=1, attention=(), quantizer=quantizer
        )
    ).eval()
    codes = torch.randint(7, (2, *model.grid))
    shares = F.one_hot(codes, 7).movedim(-1, 1).float().requires_grad_()
    pictures = model.pictures_of_shares(shares)
    torch.testing.assert_close(pictures, model.pictures_of(codes), atol=1e-5, rtol=1e-4)
    assert torch.autograd.grad(pictures.sum(), shares)[0].abs().sum() > 0


def test_tokenizers_through_which_no_gradient_flows_are_refused(embedder):
    flat = FlatTokenizer(vocab_size=16, grid=(4, 3))
    with pytest.raises(ConfigError, match="no gradient flows"):
        make_task(embedder, flat, embedding_weight=1.0)
    assert make_task(embedder, flat).image_tokenizer is flat


def test_another_clip_is_refused(embedder):
    tokenizer = tiny_text_tokenizer()
    other = ClipReranker(tiny_clip(tokenizer, seed=1), tokenizer)
    condition = JointCondition(clip="a", fingerprint=embedder.fingerprint(), vector_size=8)
    with pytest.raises(CheckpointError, match="give the CLIP it was trained with"):
        JointPrompts(condition, other)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"rows": 3}, "grid of"), ({"image_vocab": 8}, "image_vocab"), ({"vector_size": 5}, "vector")],
)
def test_a_model_that_does_not_fit_its_neighbours_is_refused(embedder, codec, config, message):
    with pytest.raises(ConfigError, match=message):
        make_task(embedder, codec, config=config)


@pytest.mark.parametrize("prompts", [(), ("a red cube",)])
def test_previews_show_prompts_or_held_out_pictures(embedder, codec, prompts, tmp_path):
    task = make_task(embedder, codec, prompts=prompts)
    [path] = task.preview(task.build().eval(), make_batch(task), tmp_path)
    with Image.open(path) as sheet:
        assert sheet.size[0] > 40


@pytest.mark.parametrize(
    "objective", [{"condition_dropout": 1.5}, {"embedding_weight": -1.0}], ids=str
)
def test_impossible_objectives_are_refused(objective):
    with pytest.raises(ConfigError, match=next(iter(objective))):
        ClipGenObjective(**objective)
