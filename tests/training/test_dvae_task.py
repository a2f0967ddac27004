"""The objective of the discrete VAE, and what it says of a codebook."""

import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.multiprocessing import start_processes

from dalle.errors import ConfigError, DataError
from dalle.models import dvae
from dalle.models.dvae import Dvae, DvaeConfig, reconstruction_nll
from dalle.nn.convs import Float32Conv
from dalle.nn.quantize import kl_to_uniform
from dalle.protocols import Batch, EncodedSample, Sample
from dalle.training.dvae_task import DvaeObjective, DvaeTask


def make_task(
    *, downsampling: int = 4, total_steps: int = 100, side: int = 16, **objective: Any
) -> DvaeTask:
    config = DvaeConfig(
        image_height=side,
        image_width=2 * side,
        num_codes=10,
        hidden=8,
        groups=5,
        blocks=1,
        downsampling=downsampling,
        embed_dim=8,
    )
    return DvaeTask(config, DvaeObjective(**objective), total_steps=total_steps)


def build(task: DvaeTask) -> Dvae:
    torch.manual_seed(0)
    model = task.build()
    assert isinstance(model, Dvae)
    return model


def make_batch(task: DvaeTask, count: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    size = (count, task.config.image_height, task.config.image_width, 3)
    return task.prepare(
        {"image": torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)}
    )


@pytest.mark.parametrize("downsampling", [4, 8, 16])
def test_kl_weighs_beta_over_three_f_squared_on_its_mean_over_cells(downsampling: int) -> None:
    task = make_task(downsampling=downsampling, side=32, kl_weight=6.6, kl_rise=0.01)
    model, batch = build(task), make_batch(task)
    torch.manual_seed(1)
    loss = task.loss(model, batch, step=90, counts=batch.counts)
    torch.manual_seed(1)
    output = model(batch.tensors["images"], task.objective.temperature_at(0.9))
    images = batch.tensors["images"]
    reconstruction = reconstruction_nll(images, output.decoded, "logit_laplace").sum()
    kl = kl_to_uniform(output.logits).sum()
    expected = (reconstruction + 6.6 * kl) / images.numel()
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-6)
    assert task.kl_factor(6.6) == pytest.approx(6.6 / (3 * downsampling**2))
    if downsampling == 8:
        assert task.kl_factor(6.6) == pytest.approx(6.6 / 192)


def test_published_schedules() -> None:
    objective = DvaeObjective()
    updates = 3_000_000
    assert objective.kl_weight_at(0) == 0
    assert objective.kl_weight_at(5100 / updates) == pytest.approx(6.6)
    assert objective.kl_weight_at(1) == 6.6
    assert objective.temperature_at(0) == 1
    assert objective.temperature_at(75_000 / updates) == pytest.approx((1 + 1 / 16) / 2)
    assert objective.temperature_at(150_000 / updates) == pytest.approx(1 / 16)
    assert objective.temperature_at(1) == pytest.approx(1 / 16)


def test_a_falling_kl_rises_first_and_is_gone_in_time() -> None:
    objective = DvaeObjective(kl_weight=2.0, kl_rise=0.1, kl_fall=0.5)
    weights = [objective.kl_weight_at(p / 10) for p in range(11)]
    assert weights[0] == 0 and weights[1] == pytest.approx(2.0)
    assert weights[3] == pytest.approx(1.0)
    assert weights[5:] == [0.0] * 6


def test_losses_of_micro_batches_add_up_to_that_of_the_batch() -> None:
    task = make_task(kl_weight=0.5)
    model, batch = build(task), make_batch(task, count=4)
    images = batch.tensors["images"]
    values = []
    for parts in ([images], [images[:1], images[1:]]):
        model.zero_grad()
        for part in parts:
            torch.manual_seed(3)
            small = type(batch)(tensors={"images": part}, counts={"images": float(len(part))})
            loss = task.loss(model, small, step=100, counts=batch.counts)
            loss.total.backward()
            values.append({name: loss.metrics[name] for name in ("kl", "temperature", "kl_weight")})
    for name, value in values[0].items():
        torch.testing.assert_close(value, values[1][name] + values[2][name])


def test_balance_is_nothing_when_all_codes_are_used_alike_and_pulls_apart_a_collapse() -> None:
    task = make_task(balance_weight=1.0)
    model, batch = build(task), make_batch(task)
    last = model.encoder[-1]
    assert isinstance(last, Float32Conv)
    with torch.no_grad():
        last.weight.zero_()
        even = task.loss(model, batch, step=0, counts=batch.counts).metrics["balance"]
        last.bias[3] = 50.0
        collapsed = task.loss(model, batch, step=0, counts=batch.counts).metrics["balance"]
    assert abs(even.item()) < 1e-5
    assert collapsed.item() == pytest.approx(math.log(10), abs=1e-3)
    task.loss(model, batch, step=0, counts=batch.counts).total.backward()
    assert last.bias.grad is not None


def test_a_line_of_training_says_how_the_codebook_is_used() -> None:
    task = make_task()
    model, batch = build(task), make_batch(task)
    with torch.no_grad():
        codes = model.encode_logits(batch.tensors["images"]).argmax(dim=1)
    metrics = task.loss(model, batch, step=0, counts=batch.counts).metrics
    assert list(metrics)[:3] == ["loss", "nll", "kl"]
    assert metrics["usage"].item() == pytest.approx(len(codes.unique()) / 10)
    twice = {name: 2 * count for name, count in batch.counts.items()}
    half = task.loss(model, batch, step=0, counts=twice).metrics
    for name in ("usage", "perplexity"):  # so that the halves of a batch add up to their mean
        torch.testing.assert_close(half[name], metrics[name] / 2)
    shares = torch.bincount(codes.flatten()) / codes.numel()
    entropy = -sum(p * math.log(p) for p in shares.tolist() if p > 0)
    assert metrics["perplexity"].item() == pytest.approx(math.exp(entropy), rel=1e-4)


def _gradients(pictures: slice) -> dict[str, Tensor]:
    task = make_task(balance_weight=3.0)
    model, batch = build(task), make_batch(task, count=4)
    part = Batch(tensors={"images": batch.tensors["images"][pictures]}, counts={})
    loss = task.loss(model, part, step=100, counts=batch.counts)
    loss.total.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**loss.metrics, **found}


def _one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = _gradients(slice(2 * rank, 2 * rank + 2))
    for value in mine.values():
        dist.all_reduce(value)
    if rank == 0:
        torch.save(mine, f"{folder}/sums.pt")
    dist.destroy_process_group()


def test_the_codebook_is_that_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without noise, so that two processes see what one does.
    monkeypatch.setattr(dvae, "gumbel_softmax", lambda logits, t: torch.softmax(logits / t, dim=1))
    start_processes(_one_of_two, args=(str(tmp_path),), nprocs=2, start_method="fork")
    two, one = torch.load(tmp_path / "sums.pt", weights_only=True), _gradients(slice(None))
    assert set(two) == set(one) >= {"usage", "perplexity", "balance"}
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_validation_over_batches_is_that_of_all_at_once() -> None:
    task = make_task()
    model, batch = build(task).eval(), make_batch(task, count=4)
    images = batch.tensors["images"]
    parts = [
        type(batch)(tensors={"images": part}, counts={"images": float(len(part))})
        for part in (images[:1], images[1:])
    ]
    whole = task.validate(model, [batch], step=0)
    for name, value in task.validate(model, parts, step=0).items():
        assert value == pytest.approx(whole[name], rel=1e-4), name


def test_reading_crops_and_refuses_codes() -> None:
    task = make_task(augment=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8))
    sample = Sample(key="a", image=picture, captions=())
    read = task.read(sample, Random(0), train=True)
    assert read is not None
    assert np.array_equal(read["image"], np.asarray(picture))
    flipped = make_task(augment=True, flip=True)
    other = flipped.read(sample, Random(0), train=True)
    assert other is not None and other["image"].shape == (16, 32, 3)
    encoded = EncodedSample(key="a", codes=np.zeros((1, 2, 4), np.uint16), captions=())
    with pytest.raises(DataError, match="trained on pictures"):
        task.read(encoded, Random(0), train=True)


def test_preview_is_a_sheet_of_originals_above_reconstructions(tmp_path: Path) -> None:
    task = make_task()
    model, batch = build(task).eval(), make_batch(task, count=3)
    [path] = task.preview(model, batch, tmp_path)
    with Image.open(path) as sheet:
        assert sheet.size == (3 * 66 + 2, 2 * 34 + 2)
        original = np.asarray(sheet)[2:34, 2:66]
    expected = (batch.tensors["images"][0] * 255).round().byte().movedim(0, -1).numpy()
    assert np.array_equal(original[::2, ::2], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kl_weight": -1.0},
        {"kl_weight": math.nan},
        {"balance_weight": math.inf},
        {"temperature": 0.0},
        {"temperature_share": math.nan},
        {"kl_rise": 0.5, "kl_fall": 0.4},
    ],
)
def test_impossible_objectives_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        DvaeObjective(**wrong)
