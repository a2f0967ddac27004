"""What the decoder is trained on: targets, captions, counts, and what its folder takes along."""

import math
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.errors import ConfigError, InputError
from dalle.models.dalle import DalleConfig
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.protocols import EncodedSample
from dalle.tokenizers.image import DvaeTokenizer
from dalle.tokenizers.text import TextTokenizer
from dalle.training.dalle_objective import DalleObjective
from dalle.training.dalle_task import DalleTask
from dalle.training.neighbours import Neighbours
from dalle.training.text_targets import text_targets
from tests.fakes import batch_of, fill_with_noise, noise_sample

CAPTIONS = ("a red cat", "a blue dog on a red mat", "two blue cats")


@pytest.fixture(scope="module")
def text_tokenizer():
    return TextTokenizer.train(CAPTIONS * 3, vocab_size=270)


@pytest.fixture(scope="module")
def image_tokenizer():
    torch.manual_seed(0)
    config = DvaeConfig(
        image_height=8, image_width=12, num_codes=9, hidden=8, groups=3, blocks=1, downsampling=4
    )
    return DvaeTokenizer(Dvae(config))


def make_task(text_tokenizer, image_tokenizer, *, neighbours=None, config=None, **objective):
    sizes = {
        "text_vocab": text_tokenizer.vocab_size,
        "image_vocab": 9,
        "text_slots": 24,
        "rows": 2,
        "cols": 3,
    }
    return DalleTask(
        DalleConfig(**{**sizes, **(config or {})}, depth=2, width=16, heads=2, conv_kernel=3),
        text_tokenizer=text_tokenizer,
        image_tokenizer=image_tokenizer,
        objective=DalleObjective(**objective),
        neighbours=neighbours,
        preview_prompts=("a red cat",),
    )


@pytest.fixture
def task(text_tokenizer, image_tokenizer):
    return make_task(text_tokenizer, image_tokenizer, caption_dropout=0.0, bpe_dropout=0.0)


def make_sample(captions=CAPTIONS, seed=0):
    return noise_sample(8, 12, seed=seed, captions=captions)


def make_batch(task, count=4, **sample):
    return batch_of(task, [make_sample(seed=i, **sample) for i in range(count)])


def test_targets_are_the_next_tokens_then_the_end_once_then_nothing():
    vocab, pads = 10, 10 + torch.arange(6)
    text = torch.tensor([[10, 3, 4, *pads[3:]], [10, 3, 4, 5, 6, 7], [10, *pads[1:]]])
    assert text_targets(text, vocab).tolist() == [
        [3, 4, 10, -1, -1],
        [3, 4, 5, 6, 7],
        [-1] * 5,
    ]


def test_loss_weighs_text_and_image_and_starts_at_the_logarithms(task):
    model, batch = task.build(), make_batch(task)
    loss = task.loss(model, batch, step=0, counts=batch.counts)
    text, image = math.log(task.config.text_vocab + 1), math.log(9)
    assert loss.metrics["loss_text"].item() == pytest.approx(text, rel=1e-5)
    assert loss.metrics["loss_image"].item() == pytest.approx(image, rel=1e-5)
    assert loss.total.item() == pytest.approx(text / 8 + 7 * image / 8, rel=1e-5)


def test_means_are_over_all_targets_however_they_are_split(task):
    torch.manual_seed(0)
    model, batch = task.build(), make_batch(task)
    fill_with_noise(model, std=0.2)
    whole = task.loss(model, batch, step=0, counts=batch.counts)
    parts = []
    for rows in (slice(0, 1), slice(1, 4)):
        tensors = {name: tensor[rows] for name, tensor in batch.tensors.items()}
        part = type(batch)(tensors=tensors, counts={})
        parts.append(task.loss(model, part, step=0, counts=batch.counts).total)
    torch.testing.assert_close(sum(parts), whole.total)


def test_counts_are_those_of_the_targets(task):
    batch = make_batch(task, count=3)
    assert batch.counts["image"] == 3 * 6
    assert batch.counts["text"] == (batch.tensors["text_targets"] >= 0).sum()
    nothing = make_batch(task, captions=())
    assert nothing.counts["text"] == 0
    assert torch.isfinite(task.loss(task.build(), nothing, step=0, counts=nothing.counts).total)


def test_text_logits_are_computed_up_to_the_last_target(task):
    model, batch = task.build(), make_batch(task)
    fill_with_noise(model, std=0.2)
    text, targets = batch.tensors["text"], batch.tensors["text_targets"]
    every = text_targets(text, task.config.text_vocab)
    longest = targets.shape[1]
    assert 1 < longest < every.shape[1]
    assert torch.equal(every[:, :longest], targets) and (targets[:, -1] >= 0).any()
    assert (every[:, longest:] == -1).all()
    slots = []
    model.register_forward_hook(lambda module, given, out: slots.append(out.text.shape[1]))
    losses = {}
    for name, wanted in (("all", every), ("few", targets)):
        tensors = {**batch.tensors, "text_targets": wanted}
        counted = type(batch)(tensors=tensors, counts=batch.counts)
        model.zero_grad()
        loss = task.loss(model, counted, step=0, counts=batch.counts)
        loss.total.backward()
        gradients = {name: x.grad.clone() for name, x in model.named_parameters()}
        losses[name] = loss.total.item(), gradients
    assert slots == [every.shape[1], longest]
    assert losses["few"][0] == pytest.approx(losses["all"][0], rel=1e-6)
    for name, gradient in losses["all"][1].items():
        torch.testing.assert_close(losses["few"][1][name], gradient, atol=1e-6, rtol=1e-4)


def test_training_draws_captions_and_drops_some_and_evaluation_takes_the_first(
    text_tokenizer, image_tokenizer
):
    task = make_task(text_tokenizer, image_tokenizer, caption_dropout=0.3, bpe_dropout=0.0)
    drawn = [task.read(make_sample(), Random(i), train=True)["text"] for i in range(400)]
    said = [text_tokenizer.decode_stream(ids) for ids in drawn]
    shares = {caption: said.count(caption) / 400 for caption in ("", *CAPTIONS)}
    assert shares[""] == pytest.approx(0.3, abs=0.08)
    assert all(shares[c] == pytest.approx(0.7 / 3, abs=0.08) for c in CAPTIONS)
    first = task.read(make_sample(), Random(5), train=False)["text"]
    assert text_tokenizer.decode_stream(first) == CAPTIONS[0]


def test_bpe_dropout_breaks_words_up_in_training_only(text_tokenizer, image_tokenizer):
    task = make_task(text_tokenizer, image_tokenizer, caption_dropout=0.0, bpe_dropout=0.5)
    one = ("two cats",)

    def texts(train):
        reads = (task.read(make_sample(one), Random(i), train=train) for i in range(30))
        return {tuple(read["text"]) for read in reads}

    assert len(texts(train=True)) > 3
    assert len(texts(train=False)) == 1
    assert {text_tokenizer.decode_stream(np.array(ids)) for ids in texts(train=True)} == {*one}


@pytest.mark.parametrize("policy", ["cut", "leave_out", "refuse"])
def test_long_captions_are_cut_left_out_or_refused(text_tokenizer, image_tokenizer, policy):
    task = make_task(text_tokenizer, image_tokenizer, long_captions=policy)
    long = make_sample(("word " * 20_000,))
    if policy == "refuse":
        with pytest.raises(InputError, match="x"):
            task.read(long, Random(0), train=False)
    else:
        read = task.read(long, Random(0), train=False)
        assert (read is None) == (policy == "leave_out")


def test_codes_of_an_encoded_source_are_those_of_the_picture(task):
    sample = make_sample()
    by_picture = task.prepare(
        {n: torch.from_numpy(a[None]) for n, a in task.read(sample, Random(0), train=False).items()}
    )
    codes = by_picture.tensors["codes"].view(1, 2, 3).numpy().astype(np.uint16)
    encoded = EncodedSample(key="x", codes=codes, captions=sample.captions)
    read = task.read(encoded, Random(0), train=False)
    by_codes = task.prepare({n: torch.from_numpy(a[None]) for n, a in read.items()})
    for name, tensor in by_picture.tensors.items():
        assert torch.equal(by_codes.tensors[name], tensor), name


def test_kept_ids_of_captions_give_what_the_captions_give(text_tokenizer, image_tokenizer):
    task = make_task(text_tokenizer, image_tokenizer, bpe_dropout=0.0)
    captions = ("a red square", "a blue circle " * 9, "red")
    ids = tuple(np.array(text_tokenizer.encode(caption)) for caption in captions)
    codes = np.zeros((4, 2, 3), np.uint16)
    kept = EncodedSample(key="x", codes=codes, captions=captions, token_ids=ids)
    plain = EncodedSample(key="x", codes=codes, captions=captions)
    for seed, train in ((0, False), (1, True), (2, True), (3, True), (4, True)):
        by_ids, by_text = (task.read(s, Random(seed), train=train) for s in (kept, plain))
        assert np.array_equal(by_ids["text"], by_text["text"])
    wrong = EncodedSample(key="x", codes=codes, captions=captions, token_ids=ids[::-1])
    assert not np.array_equal(
        task.read(wrong, Random(0), train=False)["text"],
        task.read(kept, Random(0), train=False)["text"],
    )


def test_validation_says_what_the_caption_is_worth(task):
    torch.manual_seed(0)
    model = task.build()
    fill_with_noise(model, std=0.5)
    values = task.validate(model, [make_batch(task, count=2), make_batch(task)], step=0)
    assert values["loss_image"] != values["loss_image_no_caption"]
    nothing = task.validate(model, [make_batch(task, captions=())], step=0)
    assert nothing["loss_image"] == pytest.approx(nothing["loss_image_no_caption"])


def test_the_frozen_tokenizer_is_no_part_of_the_model(task, image_tokenizer):
    model = task.build()
    before = {name: t.clone() for name, t in image_tokenizer.dvae.state_dict().items()}
    batch = make_batch(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    task.loss(model, batch, step=0, counts=batch.counts).total.backward()
    optimizer.step()
    assert not any("dvae" in name or "tokenizer" in name for name in model.state_dict())
    for name, tensor in image_tokenizer.dvae.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_preview_and_export_make_a_folder_that_says_how_to_sample(task, image_tokenizer, tmp_path):
    [picture] = task.preview(task.build().eval(), make_batch(task), tmp_path)
    with Image.open(picture) as sheet:
        assert sheet.size[0] > sheet.size[1]
    task.neighbours = Neighbours(image_tokenizer=image_tokenizer.dvae)
    extra = task.export(tmp_path)
    assert extra["sampling"]["temperature"] == 1.0
    assert (tmp_path / "text_tokenizer.json").is_file()
    assert (tmp_path / "image_tokenizer" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("config", "message"),
    [({"rows": 3}, "grid of"), ({"image_vocab": 8}, "image_vocab"), ({"text_vocab": 5}, "text_")],
)
def test_a_model_that_does_not_fit_its_tokenizers_is_refused(
    text_tokenizer, image_tokenizer, config, message
):
    with pytest.raises(ConfigError, match=message):
        make_task(text_tokenizer, image_tokenizer, config=config)
