"""Captions learned beside pictures: which row has which order, its targets, its losses."""

import dataclasses
import math
from random import Random

import numpy as np
import pytest
import torch

from dalle.data.order import sample_random
from dalle.errors import ConfigError
from dalle.training.dalle_task import DalleTask
from tests.fakes import batch_of, fill_with_noise
from tests.training import test_dalle_task
from tests.training.test_dalle_task import CAPTIONS, make_sample, make_task

text_tokenizer, image_tokenizer = test_dalle_task.text_tokenizer, test_dalle_task.image_tokenizer


@pytest.fixture
def task(text_tokenizer, image_tokenizer) -> DalleTask:
    both = {"config": {"both_orders": True}, "caption_order": 0.3}
    return make_task(
        text_tokenizer, image_tokenizer, **both, caption_dropout=0.2, bpe_dropout=0.0, augment=False
    )


def make_batch(task, count=12, *, train=True, **sample):
    return batch_of(task, [make_sample(seed=i, **sample) for i in range(count)], train=train)


def random_model(task):
    torch.manual_seed(0)
    model = task.build()
    fill_with_noise(model, std=0.3)
    return model


def test_a_share_of_the_captioned_samples_has_its_picture_first(task):
    reads = [task.read(make_sample(), sample_random(7, 0, i), train=True) for i in range(600)]
    captioned = [read for read in reads if read["text"][1] < task.config.text_vocab]
    shares = [np.mean([read["picture_first"] for read in part]) for part in (captioned, reads)]
    assert shares == [pytest.approx(0.3, abs=0.06), pytest.approx(0.3 * 0.8, abs=0.06)]
    again = [task.read(make_sample(), sample_random(7, 0, i), train=True) for i in range(600)]
    assert [r["picture_first"] for r in again] == [r["picture_first"] for r in reads]
    for never in (make_batch(task, 20, captions=()), make_batch(task, 20, train=False)):
        assert not never.tensors["picture_first"].any()


def test_without_the_option_nothing_is_drawn_for_it(text_tokenizer, image_tokenizer):
    off = {"caption_dropout": 0.0, "bpe_dropout": 0.0, "augment": False}
    task = make_task(text_tokenizer, image_tokenizer, **off)
    random, other = Random(1), Random(1)
    assert task.read(make_sample(), random, train=True).keys() == {"text", "image"}
    other.random()  # whether the caption is dropped
    other.choice(range(3))  # which one it is
    assert random.getstate() == other.getstate()


def test_each_row_has_the_targets_of_its_order_and_they_are_counted(task):
    batch = make_batch(task)
    first, t = batch.tensors["picture_first"], batch.tensors
    assert 0 < first.sum() < len(first)
    assert (t["caption_targets"][~first] == -1).all() and (t["text_targets"][first] == -1).all()
    assert (t["image_targets"][first] == -1).all()
    assert torch.equal(t["image_targets"][~first], t["codes"][~first])
    whole = test_dalle_task.text_targets(t["text"], task.config.text_vocab)
    whole = whole[:, : t["text_targets"].shape[1]]  # behind which nobody has one
    assert torch.equal(torch.maximum(t["caption_targets"], t["text_targets"]), whole)
    assert batch.counts == {n: (t[f"{n}_targets"] >= 0).sum() for n in ("text", "image", "caption")}


@pytest.mark.parametrize(("weight", "used"), [(None, 1 / 8), (0.5, 0.5)])
def test_the_loss_is_that_of_each_order_by_its_share(task, weight, used):
    task.objective = dataclasses.replace(task.objective, caption_weight=weight)
    model, batch = random_model(task), make_batch(task)
    metrics = task.loss(model, batch, step=0, counts=batch.counts).metrics
    first, text, codes = (batch.tensors[n] for n in ("picture_first", "text", "codes"))
    published = model(text[~first], codes[~first])
    captions = model(text[first], codes[first], first[first])

    def mean(logits, targets):
        kept = targets >= 0
        logits = logits[:, : targets.shape[1]]
        return torch.nn.functional.cross_entropy(logits[kept], targets[kept]).item()

    of_order = batch.tensors["text_targets"][~first], batch.tensors["caption_targets"][first]
    expected = {
        "loss_text": mean(published.text, of_order[0]),
        "loss_image": mean(published.image, codes[~first]),
        "loss_caption": mean(captions.text, of_order[1]),
    }
    total = 0.7 * (expected["loss_text"] / 8 + expected["loss_image"] * 7 / 8)
    expected["loss"] = total + 0.3 * used * expected["loss_caption"]
    assert {n: x.item() for n, x in metrics.items()} == pytest.approx(expected, rel=1e-4)


def test_means_are_over_all_targets_however_rows_and_orders_are_split(task):
    model, batch = random_model(task), make_batch(task)
    whole = task.loss(model, batch, step=0, counts=batch.counts).total
    order = batch.tensors["picture_first"].argsort()
    parts = []
    for rows in (order[:1], order[1:7], order[7:]):  # one of them has rows of a single order
        part = type(batch)(tensors={n: x[rows] for n, x in batch.tensors.items()}, counts={})
        parts.append(task.loss(model, part, step=0, counts=batch.counts).total)
    torch.testing.assert_close(sum(parts), whole)
    empty = make_batch(task, captions=())
    assert torch.isfinite(task.loss(model, empty, step=0, counts=empty.counts).total)


def test_validation_holds_captions_against_the_pictures_before_them(task):
    model = random_model(task)
    said = [make_sample(captions=(CAPTIONS[i % 3],), seed=i) for i in range(4)]
    rows = [batch_of(task, [sample], train=False) for sample in said]
    together, alone = (
        task.validate(model, batches, step=0)
        for batches in ([batch_of(task, said, train=False)], rows)
    )
    assert alone["loss_caption"] == pytest.approx(together["loss_caption"], rel=1e-4)
    for found in (together, alone):
        assert abs(found["loss_caption_other_picture"] - found["loss_caption"]) > 1e-4
    alike = [make_sample(captions=(caption,)) for caption in CAPTIONS]
    found = task.validate(model, [batch_of(task, alike, train=False)], step=0)
    assert found["loss_caption_other_picture"] == pytest.approx(found["loss_caption"])


def test_fresh_captions_start_at_the_logarithm(task):
    found = task.validate(task.build(), [make_batch(task, train=False)], step=0)
    start = math.log(task.config.text_vocab + 1)
    assert found["loss_caption"] == pytest.approx(start, rel=1e-5)
    assert found["loss_caption_other_picture"] == pytest.approx(start, rel=1e-5)


@pytest.mark.parametrize(
    ("both", "share", "message"),
    [(True, 0.0, "needs a share above 0"), (False, 0.3, "share 0"), (True, 1.0, "share < 1")],
)
def test_model_and_objective_must_agree(text_tokenizer, image_tokenizer, both, share, message):
    with pytest.raises(ConfigError, match=message):
        make_task(
            text_tokenizer, image_tokenizer, config={"both_orders": both}, caption_order=share
        )
