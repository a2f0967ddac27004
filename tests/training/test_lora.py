"""LoRA: only the thin matrices learn, and what is saved are plain layers with their products."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dalle.checkpoint import load_folder, save_model_folder
from dalle.errors import ConfigError
from dalle.pretrained import mindalle, rudalle
from dalle.pretrained.dalle_pytorch import dalle_pt
from dalle.protocols import Sample
from dalle.tokenizers.image import DvaeTokenizer
from dalle.training import lora
from dalle.training.dalle_objective import DalleObjective
from dalle.training.dalle_task import DalleTask
from dalle.training.loop import TrainConfig, TrainResult, train
from tests import published
from tests.fakes import CAPTIONS, noise_sample, tiny_dalle, tiny_dvae, tiny_text_tokenizer
from tests.pretrained.dalle_pytorch import originals

PATH = originals.PATH
TOKENS = tiny_text_tokenizer()


def model_of(family: str) -> nn.Module:
    """A decoder that is trained here, with weights that are no zeros."""
    if family == "ours":
        return tiny_dalle(TOKENS)
    if family == "mindalle":
        state = published.filled_state("mindalle_transformer")
        return mindalle.from_state(state, path=PATH, heads=2)
    if family.startswith("rudalle"):
        state = published.filled_state(family)
        return rudalle.from_state(state, path=PATH, version=family[-2:], heads=2)
    return dalle_pt.convert(originals.source(originals.dalle_pt(family[-1]))).module


FAMILIES = ["ours", "mindalle", "rudalle_v2", "rudalle_v3", *(f"dalle_pytorch {x}" for x in "abcd")]


def inputs(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(3, model.text_vocab, (2, model.layout.text), generator=generator)
    codes = torch.randint(0, model.image_vocab, (2, model.layout.image), generator=generator)
    return text, codes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_thin_matrix_is_read_and_merged(family: str) -> None:
    torch.manual_seed(0)
    model = model_of(family)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text, codes = inputs(model)
    before = model(text, codes)
    lora.add_lora(model.requires_grad_(True), rank=2, strategy="single")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(lora.adapters(model.state_dict())) and trained
    assert torch.equal(model(text, codes).image, before.image)

    for name, parameter in model.named_parameters():
        if name in trained:
            nn.init.normal_(parameter, std=0.3)
    output = model(text, codes)
    assert not torch.allclose(output.image, before.image, atol=1e-2)
    (output.image.logsumexp(-1).sum() + output.text.logsumexp(-1).sum()).backward()
    for name, parameter in model.named_parameters():
        if name in trained:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name

    merged = lora.merged(model.state_dict())
    assert merged.keys() == plain.keys()
    again = model_of(family)
    again.load_state_dict(merged)
    torch.testing.assert_close(again(text, codes).image, output.image, atol=1e-4, rtol=1e-4)


class Pictures:
    """Captioned pictures of noise."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int, /) -> Sample:
        caption = CAPTIONS[index % len(CAPTIONS)]
        return noise_sample(16, 12, seed=index, key=str(index), captions=(caption,))


def tune(start: Path | None, out: Path, **changes: Any) -> TrainResult:
    codec = tiny_dvae()
    task = DalleTask(
        tiny_dalle(TOKENS).config,
        text_tokenizer=TOKENS,
        image_tokenizer=DvaeTokenizer(codec),
        objective=DalleObjective(),
    )
    fields: dict[str, Any] = {"steps": 4, "batch_size": 4, "validate_every": 2, "device": "cpu"}
    fields |= {"lora_rank": 2, "ema_decay": 0.5, "preview_every": 0, "keep_last": 9}
    config = TrainConfig(**{**fields, **changes})
    return train(
        task,
        config,
        train_source=Pictures(),
        held_out_source=Pictures(),
        out=out,
        start_from=None if start is None else start / "model.safetensors",
    )


@pytest.fixture
def start(tmp_path: Path) -> Path:
    model = tiny_dalle(TOKENS)
    folder = tmp_path / "start"
    return save_model_folder(folder, kind="dalle", config=model.config, module=model)


def test_only_thin_matrices_learn_and_the_folder_needs_no_peft(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = tune(start, tmp_path / "run").checkpoint
    given, parts = load_file(start / "model.safetensors"), load_file(step / lora.PARTS["model"])
    thin = lora.adapters(parts)
    for name, tensor in parts.items():
        if name not in thin:
            assert torch.equal(given[name.replace(".base_layer", "")], tensor), name
    assert all(t.abs().max() > 0 for t in thin.values())
    monkeypatch.setitem(sys.modules, "peft", None)
    for weights in ("model", "ema"):
        loaded = load_folder(step, weights=weights)
        state = loaded.module.state_dict()
        changed = {name for name, tensor in given.items() if not torch.equal(state[name], tensor)}
        blocks = [f"transformer.blocks.{i}" for i in range(len(loaded.module.transformer.blocks))]
        assert changed == {
            f"{block}.{part}.weight"
            for block in blocks
            for part in ("qkv", "attention_out", "mlp_in", "mlp_out")
        }


def test_a_run_with_it_goes_on_exactly(start: Path, tmp_path: Path) -> None:
    unbroken = tune(start, tmp_path / "unbroken", save_every=2).checkpoint
    shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "step-00000004")
    broken = tune(start, tmp_path / "broken", save_every=2).checkpoint
    names = ("model", "ema", "training/optimizer")
    for file in (*(f"{name}.safetensors" for name in names), *lora.PARTS.values()):
        first, second = load_file(unbroken / file), load_file(broken / file)
        assert first.keys() == second.keys()
        assert all(torch.equal(second[name], tensor) for name, tensor in first.items()), file


def test_it_is_refused_where_it_means_nothing(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="begins with a new model"):
        tune(None, tmp_path / "run")
    with pytest.raises(ConfigError, match="under fsdp2"):
        lora.add_lora(tiny_dalle(TOKENS), rank=2, strategy="fsdp2")
    with pytest.raises(ConfigError, match="a Dvae has no layers"):
        lora.add_lora(tiny_dvae(), rank=2, strategy="single")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'dalle\[lora\]'"):
        tune(start, tmp_path / "run")
