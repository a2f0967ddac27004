"""A codebook that collapses is noticed, and comes back with the remedy that the message names."""

import logging

import pytest
import torch
from torch import Tensor

from dalle.models.dvae import Dvae, DvaeConfig
from dalle.nn.quantize import CodebookUse
from dalle.protocols import Batch
from dalle.training.collapse import name_collapse
from dalle.training.dvae_task import DvaeObjective, DvaeTask

CODES, STEPS = 32, 100


def quadrants(count: int, seed: int) -> Batch:
    """Pictures of four squares, each in a colour of its own: more than three codes can say."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(count, 3, 2, 2, generator=generator)
    images = colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return Batch(tensors={"images": images}, counts={"images": float(count)})


def make_task(balance_weight: float) -> DvaeTask:
    config = DvaeConfig(
        image_height=16,
        image_width=16,
        num_codes=CODES,
        hidden=16,
        groups=3,
        blocks=1,
        downsampling=4,
        embed_dim=16,
        likelihood="mse",
    )
    objective = DvaeObjective(
        kl_weight=0.0, temperature_share=0.8, balance_weight=balance_weight, augment=False
    )
    return DvaeTask(config, objective, total_steps=STEPS)


def collapsed_model(task: DvaeTask) -> Dvae:
    """One code for every cell of every picture."""
    torch.manual_seed(1)
    model = task.build()
    assert isinstance(model, Dvae)
    last: Tensor = model.encoder[-1].get_parameter("bias")
    with torch.no_grad():
        last[3] = 12.0
    return model


def trained(balance_weight: float) -> dict[str, float]:
    """Held-out numbers of a model that began collapsed."""
    task = make_task(balance_weight)
    model = collapsed_model(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.99))
    for step in range(STEPS):
        batch = quadrants(16, seed=step)
        loss = task.loss(model, batch, step=step, counts=batch.counts)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return task.validate(model, [quadrants(64, seed=999)], step=STEPS)


def test_a_collapse_is_named_after_the_first_tenth(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task(0.0)
    model, batch = collapsed_model(task), quadrants(8, seed=0)
    with caplog.at_level(logging.WARNING):
        early = task.validate(model, [batch], step=9)
        assert early["collapsed"] == 0.0 and not caplog.records
        late = task.validate(model, [batch], step=50)
    assert late["collapsed"] == 1.0
    assert (late["codes_used"], late["usage"]) == (1.0, 1 / CODES)
    assert late["perplexity"] == pytest.approx(1.0)
    [record] = caplog.records
    assert "step 50: the codebook has collapsed: 1 of 32 codes" in record.getMessage()
    assert "balance_weight" in record.getMessage()


def test_the_balance_brings_a_collapsed_codebook_back() -> None:
    without, with_it = trained(0.0), trained(0.1)
    assert without["codes_used"] < CODES / 2 < 0.8 * CODES < with_it["codes_used"]
    assert with_it["perplexity"] > 2 * without["perplexity"]
    assert with_it["psnr"] > without["psnr"] + 2
    assert with_it["collapsed"] == 0.0


def use(codes: int, perplexity: float) -> CodebookUse:
    return CodebookUse(codes, codes / 128, perplexity)


@pytest.mark.parametrize(
    ("found", "kl", "num_cells", "expected"),
    [
        (use(3, 2.4), 4.8, 4000, "3 of 128 codes"),
        (use(8, 2.6), 4.8, 4000, "8 of 128 codes"),
        (use(20, 1.9), 4.8, 4000, "perplexity 1.9"),
        (use(100, 37.0), 0.02, 4000, "say nothing of the pictures"),
        (use(28, 12.0), 5.0, 4000, None),
        (use(4, 3.9), 4.8, 4, None),  # no more could occur
    ],
)
def test_what_is_called_a_collapse(
    found: CodebookUse, kl: float, num_cells: int, expected: str | None
) -> None:
    named = name_collapse(found, kl=kl, num_codes=128, num_cells=num_cells)
    assert named is None if expected is None else expected in str(named)
