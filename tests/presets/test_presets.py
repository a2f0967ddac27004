"""The named runs: they build, they travel as JSON, and the published one is the published one."""

import json
from typing import get_args

import pytest
import torch

from dalle.config import from_json, to_json
from dalle.models.dalle import Dalle
from dalle.models.dvae import Dvae
from dalle.presets import (
    CLIP_PRESETS,
    DALLE_PRESETS,
    VAE_PRESETS,
    ClipRun,
    DalleRun,
    PresetName,
    VaeRun,
)

ALL: dict[str, VaeRun | ClipRun | DalleRun] = {
    f"{kind} {name}": run
    for kind, presets in (("vae", VAE_PRESETS), ("clip", CLIP_PRESETS), ("dalle", DALLE_PRESETS))
    for name, run in presets.items()  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("presets", [VAE_PRESETS, CLIP_PRESETS, DALLE_PRESETS])
def test_every_model_has_every_name(presets: dict[str, object]) -> None:
    assert tuple(presets) == get_args(PresetName)
    assert [run.preset for run in presets.values()] == list(presets)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ALL)
def test_a_run_travels_as_json(name: str) -> None:
    run = ALL[name]
    assert from_json(type(run), json.loads(json.dumps(to_json(run)))) == run


@pytest.mark.parametrize("name", ALL)
def test_a_run_builds_its_configs(name: str) -> None:
    run = ALL[name]
    assert run.train_config().steps == run.loop.steps
    assert run.train_config().optim.lr_at(0, steps=run.loop.steps) > 0
    _ = run.objective_config()
    if isinstance(run, VaeRun):
        rows, cols = run.model_config().grid
        kernel = DALLE_PRESETS[run.preset].model.conv_kernel
        assert kernel == 3 if min(rows, cols) < 16 else kernel <= 11
    elif isinstance(run, ClipRun):
        assert run.model_config(300).text_vocab == 300
    else:
        config = run.model_config(text_vocab=300, codes=16, grid=(3, 5))
        assert (config.layout.length, config.image_vocab) == (run.text.text_slots + 15, 16)


def test_the_script_begins_with_1024_codes_on_32_by_32() -> None:
    config = VAE_PRESETS["small"].model_config()
    assert (config.num_codes, config.grid) == (1024, (32, 32))


def test_the_published_discrete_vae() -> None:
    run = VAE_PRESETS["paper"]
    with torch.device("meta"):
        model = Dvae(run.model_config())
    assert sum(p.numel() for p in model.parameters()) == 53_786_240 + 43_829_766
    steps, train, objective = run.loop.steps, run.train_config(), run.objective_config()
    lr = [train.optim.lr_at(step, steps=steps) for step in (0, 600_000, 1_200_000, 2_999_999)]
    assert lr == pytest.approx([1e-4, (1e-4 + 1.25e-6) / 2, 1.25e-6, 1.25e-6])
    beta = [objective.kl_weight_at(step / steps) for step in (0, 2500, 5000, 2_999_999)]
    assert beta == pytest.approx([0, 3.3, 6.6, 6.6])
    tau = [objective.temperature_at(step / steps) for step in (0, 75_000, 150_000, 2_999_999)]
    assert tau == pytest.approx([1, 17 / 32, 1 / 16, 1 / 16])
    assert (train.batch_size, train.ema_decay, train.optim.weight_decay) == (512, 0.999, 1e-4)


def test_the_published_transformer() -> None:
    run = DALLE_PRESETS["paper"]
    config = run.model_config(text_vocab=16384, codes=8192, grid=(32, 32))
    assert (config.layout.length, config.width // config.heads) == (1280, 64)
    names = [pattern.name for pattern in config.layer_patterns]
    assert (names[:4], names[-1]) == (["row", "column", "row", "row"], "conv")
    assert [names.count(name) for name in ("row", "column", "conv")] == [47, 16, 1]
    with torch.device("meta"):
        model = Dalle(config)
    assert 12.0e9 < sum(p.numel() for p in model.parameters()) < 12.5e9
    train = run.train_config()
    lr = [train.optim.lr_at(step, steps=430_000) for step in (0, 4_999, 429_999)]
    assert lr == pytest.approx([4.5e-4 / 5000, 4.5e-4, 4.5e-4 / 32])
    assert (train.batch_size, train.ema_decay, train.ema_every) == (1024, 0.99, 25)
    assert (train.optim.betas, train.optim.weight_decay) == ((0.9, 0.96), 0.045)
    assert train.optim.clip_norm == 4.0
    objective = run.objective_config()
    assert (objective.text_weight, objective.bpe_dropout) == (1 / 8, 0.1)
