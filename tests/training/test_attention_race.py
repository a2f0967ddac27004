"""The choice among exact forms of attention: the fastest that runs, once for a run."""

import time
from functools import partial

import pytest
import torch
from torch import Tensor

from dalle.models.dalle import Dalle, DalleConfig
from dalle.processes import ALONE
from dalle.training import attention_race
from dalle.training.attention_race import choose_attention, fastest

CONFIG = DalleConfig(
    text_vocab=8, image_vocab=8, text_slots=4, rows=3, cols=4, depth=3, width=8, heads=2
)
GPU = torch.device("cuda")


def form(queries: Tensor, keys: Tensor, values: Tensor, *, seconds: float) -> Tensor:
    time.sleep(seconds)
    return queries + keys + values


def broken(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    raise RuntimeError("no kernel for this device")


def test_the_fastest_form_that_runs_wins(caplog: pytest.LogCaptureFixture) -> None:
    like, cpu = torch.empty(1, 2, 3, 4, device="meta"), torch.device("cpu")
    slow, fast = partial(form, seconds=0.02), partial(form, seconds=0.0)
    assert fastest({"slow": slow, "fast": fast, "broken": broken}, like, cpu) == "fast"
    assert "broken attention does not run here: no kernel" in caplog.text


def test_a_run_keeps_the_forms_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    raced: list[str] = []

    def blocks_win(forms: dict, like: Tensor, device: torch.device) -> str:
        assert like.shape == (5, 2, 16, 4) and like.dtype == torch.bfloat16
        raced.append("once")
        return "blocks"

    monkeypatch.setattr(attention_race, "fastest", blocks_win)
    monkeypatch.setattr(attention_race, "_forms", lambda *_: {})
    model, how = Dalle(CONFIG), {"samples": 5, "dtype": torch.bfloat16}
    chosen = choose_attention(model, GPU, ALONE, known={"column": "masked"}, **how)
    assert chosen == {"row": "blocks", "column": "masked", "conv 11": "blocks"}
    assert {p.name for p in model.by_blocks} == {"row", "conv"} and len(raced) == 2
    again = Dalle(CONFIG)
    assert choose_attention(again, GPU, ALONE, known=chosen, **how) == chosen
    assert again.by_blocks == model.by_blocks and len(raced) == 2


def test_on_the_cpu_nothing_is_raced() -> None:
    model = Dalle(CONFIG)
    how = {"samples": 1, "dtype": torch.float32, "known": {}}
    assert choose_attention(model, torch.device("cpu"), ALONE, **how) == {}
    assert not model.by_blocks


@pytest.mark.gpu
def test_the_race_runs_on_a_gpu() -> None:
    config = DalleConfig(text_vocab=8, image_vocab=8, depth=2, width=128, heads=2)
    model = Dalle(config).to(GPU)
    how = {"samples": 2, "dtype": torch.bfloat16, "known": {}}
    chosen = choose_attention(model, GPU, ALONE, **how)
    assert set(chosen) == {"row", "conv 11"}
    text, codes = torch.zeros(2, 256, dtype=torch.long), torch.zeros(2, 1024, dtype=torch.long)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = model(text.to(GPU), codes.to(GPU))
    output.image.sum().backward()
