"""The task that trains a CLIP: its loss on one process and on two, its reading, its numbers."""

import json
import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from dalle.data.parts import stack
from dalle.data.shapes import ShapesSource
from dalle.data.transforms import to_float
from dalle.errors import ConfigError, InputError
from dalle.models.clip import ClipConfig, ClipOutput, TowerConfig
from dalle.protocols import Batch, EncodedSample, Sample, Task
from dalle.tokenizers.text import TextTokenizer
from dalle.training.clip_task import ClipObjective, ClipTask
from dalle.training.contrast import contrast, retrieval

SHAPES = ShapesSource(24, size=32)
CAPTIONS = [caption for number in range(24) for caption in SHAPES[number].captions]
TOKENIZER = TextTokenizer.train(CAPTIONS, vocab_size=320)
PLAIN = ClipObjective(augment=False)


def config(**changes: object) -> ClipConfig:
    fields: dict = {
        "image_height": 32,
        "image_width": 32,
        "text_vocab": TOKENIZER.vocab_size,
        "text_slots": 24,
        "embed_dim": 16,
        "stem": (8, 16),
        "patch": 4,
        "readout": "flat",
        "vision": TowerConfig(width=16, depth=0, heads=2),
        "text": TowerConfig(width=32, depth=1, heads=2),
    }
    return ClipConfig(**fields | changes)


def task(objective: ClipObjective = PLAIN, **changes: object) -> ClipTask:
    return ClipTask(config(**changes), text_tokenizer=TOKENIZER, objective=objective)


def batch_of(clip_task: ClipTask, numbers: range, *, train: bool = False) -> Batch:
    read = [clip_task.read(SHAPES[n], Random(n), train=train) for n in numbers]
    rows = [row for row in read if row is not None]
    return clip_task.prepare(stack(rows))


def features(images: Tensor, texts: Tensor, scale: float = 100.0) -> ClipOutput:
    return ClipOutput(image_features=images, text_features=texts, logit_scale=torch.tensor(scale))


def test_it_is_a_task():
    built: Task = task()
    assert built.kind == "clip"


def test_perfect_features_have_no_loss_and_random_ones_that_of_guessing():
    perfect = torch.eye(32)[:24]
    losses, hits = contrast(features(perfect, perfect))
    assert losses.max() < 1e-6
    assert hits.tolist() == [1.0] * 24
    torch.manual_seed(0)
    random = [torch.nn.functional.normalize(torch.randn(512, 256), dim=1) for _ in range(2)]
    losses, hits = contrast(features(*random, scale=1.0))
    assert losses.mean().item() == pytest.approx(math.log(512), abs=0.02)
    assert hits.mean().item() < 0.02


def test_the_loss_is_the_mean_of_both_directions():
    torch.manual_seed(0)
    images, texts = torch.randn(5, 4), torch.randn(5, 4)
    losses, _ = contrast(features(images, texts, scale=3.0))
    joint = 3.0 * images @ texts.T
    by_hand = -(joint.log_softmax(1).diagonal() + joint.log_softmax(0).diagonal()) / 2
    torch.testing.assert_close(losses, by_hand)


def test_a_wrong_caption_is_a_candidate_for_its_own_picture_alone():
    perfect = torch.eye(4)
    wrong = torch.zeros(4, 2, 4)
    wrong[1, 0] = perfect[1]  # as good as the right one, for picture 1
    wrong[2, 1] = perfect[3]  # right for picture 3, but not its candidate
    losses, hits = contrast(features(perfect, torch.cat([perfect, wrong.flatten(0, 1)])))
    torch.testing.assert_close(losses, torch.tensor([0.0, math.log(2) / 2, 0.0, 0.0]))
    assert hits[[0, 2, 3]].tolist() == [1.0] * 3


def test_wrong_captions_are_read_in_training_alone_and_make_it_harder():
    objective = ClipObjective(augment=False, wrong_captions=2)
    clip_task = ClipTask(config(), text_tokenizer=TOKENIZER, objective=objective, captions=CAPTIONS)
    batch = batch_of(clip_task, range(6), train=True)
    assert batch.tensors["wrong"].shape == (6, 2, 24)
    assert (batch.tensors["wrong"] != batch.tensors["text"][:, None]).any(dim=2).all()
    assert "wrong" not in batch_of(clip_task, range(6)).tensors
    torch.manual_seed(0)
    model = clip_task.build()
    harder = clip_task.loss(model, batch, step=0, counts=batch.counts).total
    plain = Batch(
        tensors={name: batch.tensors[name] for name in ("text", "images")}, counts=batch.counts
    )
    assert harder > clip_task.loss(model, plain, step=0, counts=batch.counts).total


def test_the_loss_is_a_sum_over_the_global_count():
    clip_task = task()
    torch.manual_seed(0)
    model = clip_task.build()
    batch = batch_of(clip_task, range(6))
    assert batch.counts == {"pairs": 6.0}
    alone = clip_task.loss(model, batch, step=0, counts=batch.counts)
    part = clip_task.loss(model, batch, step=0, counts={"pairs": 24.0})
    torch.testing.assert_close(part.total * 4, alone.total)
    torch.testing.assert_close(part.metrics["accuracy"] * 4, alone.metrics["accuracy"])
    scale = math.exp(model.logit_scale.item())
    assert part.metrics["logit_scale"].item() * 4 == pytest.approx(scale)
    assert not any(value.requires_grad for value in alone.metrics.values())


def _gradients(clip_task: ClipTask, model: nn.Module, numbers: range) -> dict[str, Tensor]:
    batch = batch_of(clip_task, numbers)
    loss = clip_task.loss(model, batch, step=0, counts={"pairs": 6.0})
    loss.total.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.total.detach(), "accuracy": loss.metrics["accuracy"], **found}


def _one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    clip_task = task()
    torch.manual_seed(0)
    numbers = range(3) if rank == 0 else range(3, 6)
    mine = _gradients(clip_task, clip_task.build(), numbers)
    for value in mine.values():
        dist.all_reduce(value)
    if rank == 0:
        torch.save(mine, f"{folder}/sums.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path):
    start_processes(_one_of_two, args=(str(tmp_path),), nprocs=2, start_method="fork")
    two = torch.load(tmp_path / "sums.pt", weights_only=True)
    clip_task = task()
    torch.manual_seed(0)
    one = _gradients(clip_task, clip_task.build(), range(6))
    assert set(two) == set(one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_reading_draws_a_caption_in_training_and_takes_the_first_otherwise():
    clip_task, sample = task(), SHAPES[0]
    streams = [TOKENIZER.encode_stream(c, slots=24).ids.tolist() for c in sample.captions]
    drawn = set()
    for seed in range(40):
        row = clip_task.read(sample, Random(seed), train=True)
        again = clip_task.read(sample, Random(seed), train=True)
        assert row is not None
        assert again is not None
        assert np.array_equal(row["text"], again["text"])
        drawn.add(streams.index(row["text"].tolist()))
    assert len(drawn) == len(streams) > 1
    row = clip_task.read(sample, Random(0), train=False)
    assert row is not None
    assert row["text"].tolist() == streams[0]


def test_a_picture_of_the_right_size_is_taken_as_it_is():
    clip_task, sample = task(), SHAPES[3]
    for train in (True, False):
        row = clip_task.read(sample, Random(0), train=train)
        assert row is not None
        assert np.array_equal(row["image"], np.asarray(sample.image))
    images = batch_of(clip_task, range(2)).tensors["images"]
    assert torch.equal(images[:1], to_float(torch.from_numpy(np.array(SHAPES[0].image)[None])))


def test_augmentation_is_for_training_only():
    clip_task = task(ClipObjective(augment=True))
    sample = Sample(key="wide", image=SHAPES[1].image.resize((64, 48)), captions=SHAPES[1].captions)
    still = [clip_task.read(sample, Random(seed), train=False) for seed in range(2)]
    moved = [clip_task.read(sample, Random(seed), train=True) for seed in range(2)]
    images = [row["image"] for row in (*still, *moved) if row is not None]
    assert [image.shape for image in images] == [(32, 32, 3)] * 4
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[2], images[3])


def test_samples_without_a_caption_are_left_out():
    sample = Sample(key="bare", image=Image.new("RGB", (32, 32)), captions=())
    assert task().read(sample, Random(0), train=True) is None


def test_long_captions_are_treated_as_asked():
    sample = Sample(key="long", image=Image.new("RGB", (32, 32)), captions=("cube " * 1000,))
    cut = task().read(sample, Random(0), train=True)
    assert cut is not None
    assert cut["text"].max() < TOKENIZER.vocab_size + 1
    out = task(ClipObjective(long_captions="leave_out"))
    assert out.read(sample, Random(0), train=True) is None
    refused = task(ClipObjective(long_captions="refuse"))
    with pytest.raises(InputError, match="'long'"):
        refused.read(sample, Random(0), train=True)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="text_vocab is 7, the tokenizer has 320"):
        task(text_vocab=7)
    with pytest.raises(ConfigError, match=r"bpe_dropout is 1\.5"):
        ClipObjective(bpe_dropout=1.5)
    with pytest.raises(ConfigError, match="wrong_captions is -1"):
        ClipObjective(wrong_captions=-1)
    encoded = EncodedSample(key="x", codes=np.zeros((1, 2, 2), np.int64), captions=("a",))
    with pytest.raises(ConfigError, match="trained on pictures"):
        task().read(encoded, Random(0), train=True)


def test_retrieval_of_random_features_is_chance_and_of_perfect_ones_certain():
    torch.manual_seed(0)
    random = [torch.nn.functional.normalize(torch.randn(2000, 64), dim=1) for _ in range(2)]
    assert retrieval(*random, k=1) == pytest.approx(1 / 2000, abs=2e-3)
    assert retrieval(*random, k=5) == pytest.approx(5 / 2000, abs=4e-3)
    assert retrieval(random[0], random[0], k=1) == 1.0


def test_a_model_that_tells_nothing_apart_is_at_chance():
    same = torch.ones(10, 4) / 2
    assert retrieval(same, same, k=1) == pytest.approx(1 / 10)
    assert retrieval(same, same, k=5) == pytest.approx(5 / 10)
    assert retrieval(same, same, k=50) == 1.0


def test_the_place_among_the_found_is_counted():
    asked, found = torch.eye(4), torch.eye(4)
    found[0], found[3] = torch.tensor([0.5, 0, 0, 0]), torch.tensor([0.9, 0, 0, 0.1])
    assert retrieval(asked, found, k=1) == pytest.approx(3 / 4)
    assert retrieval(asked, found, k=2) == 1.0


def test_training_finds_the_pairs_and_validation_says_so():
    clip_task = task()
    torch.manual_seed(0)
    model = clip_task.build()
    batches = [batch_of(clip_task, range(16)), batch_of(clip_task, range(16, 24))]
    before = clip_task.validate(model, batches, step=0)
    assert before["candidates"] == 24
    assert before["chance_top1"] == pytest.approx(1 / 24)
    assert before["chance_top5"] == pytest.approx(5 / 24)
    assert before["loss"] > math.log(24) - 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    everything = batch_of(clip_task, range(24))
    for step in range(60):
        loss = clip_task.loss(model, everything, step=step, counts=everything.counts)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    after = clip_task.validate(model, batches, step=60)
    assert after["loss"] == pytest.approx(loss.total.item(), abs=0.2)
    for name in ("text_to_image_top1", "image_to_text_top1"):
        assert after[name] > 0.9
    assert after["text_to_image_top5"] == 1.0


def test_preview_shows_every_picture_beside_a_caption(tmp_path: Path):
    clip_task = task()
    odd = Sample(key="odd", image=SHAPES[0].image, captions=("مكعب 🟥",))
    row = clip_task.read(odd, Random(0), train=False)
    assert row is not None
    arrays = {name: torch.from_numpy(value[None]) for name, value in row.items()}
    (path,) = clip_task.preview(clip_task.build(), clip_task.prepare(arrays), tmp_path)
    with Image.open(path) as picture:
        sheet = np.asarray(picture)
    assert np.array_equal(sheet[:32, :32], np.asarray(SHAPES[0].image))
    assert (sheet[:, 32:] < 255).any()
    (path,) = clip_task.preview(clip_task.build(), batch_of(clip_task, range(20)), tmp_path)
    with Image.open(path) as picture:
        assert picture.height == 12 * 36


def test_export_writes_the_tokenizer(tmp_path: Path):
    assert json.dumps(task().export(tmp_path)) == "{}"
    loaded = TextTokenizer.load(tmp_path / "text_tokenizer.json")
    assert loaded.encode(CAPTIONS[0]) == TOKENIZER.encode(CAPTIONS[0])
