"""A CLIP of `transformers` that somebody else made: read, but never run, and nothing fetched."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dalle.errors import InputError
from dalle.models import transformers_folder
from dalle.models.clip_transformers import TransformersReranker
from dalle.sampling.rerank import load_reranker
from tests.models.test_clip_transformers import save_clip
from tests.safety.poison import DRESSES, poisoned

KERNEL = "kernels-community/flash-attn"
"""Code on the hub, by the name that a config may give it."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "clip")


def edit(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("dress", DRESSES)
def test_pickled_weights_are_not_taken_for_want_of_others(folder: Path, dress: str) -> None:
    mark = folder / "mark"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(poisoned(dress, mark))
    with pytest.raises(InputError, match=f"{folder} cannot be used as a CLIP"):
        load_reranker(folder)
    index = {"metadata": {"total_size": 1}, "weight_map": {"logit_scale": "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"names 'pytorch_model\.bin', not weights beside it"):
        load_reranker(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/other.safetensors", "..\\o.safetensors"]
)
def test_weights_elsewhere_are_refused(folder: Path, name: str) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "other.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"logit_scale": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="not weights beside it"):
        load_reranker(folder)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}),
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}),
        ("config.json", {"auto_map": {"AutoConfig": "me/evil--evil.C"}, "model_type": "evil"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "Evil"},
        ),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.P"}}),
        (
            "preprocessor_config.json",
            {"auto_map": {"AutoImageProcessor": "evil.P"}, "image_processor_type": "Evil"},
        ),
    ],
)
def test_code_is_neither_run_nor_asked_about(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, fields: dict[str, Any]
) -> None:
    mark = folder / "mark"
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    edit(folder, name, **fields)
    try:
        load_reranker(folder)  # where transformers has a class of its own for it
    except InputError as error:
        assert str(folder) in str(error)
    assert not mark.exists() and asked == []
    assert not [module for module in sys.modules if "evil" in module]


def test_a_kernel_that_a_config_names_is_not_fetched(folder: Path) -> None:
    edit(folder, "config.json", attn_implementation=KERNEL, _attn_implementation=KERNEL)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["_attn_implementation"] = KERNEL
    (folder / "config.json").write_text(json.dumps(config))
    reranker = load_reranker(folder)
    assert isinstance(reranker, TransformersReranker)
    parts = (reranker.model, reranker.model.text_model, reranker.model.vision_model)
    assert {part.config._attn_implementation for part in parts} == {"sdpa"}


def test_quantized_weights_are_refused(folder: Path) -> None:
    edit(folder, "config.json", quantization_config={"quant_method": "fp8"})
    with pytest.raises(InputError, match="it is quantized"):
        load_reranker(folder)


def test_a_missing_tensor_is_not_made_up(folder: Path) -> None:
    """The library fills what is missing with noise, and says so in a table."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["visual_projection.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"its weights lack 'visual_projection\.weight'"):
        load_reranker(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 100_000),
        ("tokenizer.json", "[" * 100_000),
        ("preprocessor_config.json", "[" * 100_000),
        ("config.json", '{"model_type": "clip", "projection_dim": -1}'),
        ("config.json", '{"model_type": "clip", "projection_dim": 1000000000}'),
        ("model.safetensors", "\0" * 20),
        ("model.safetensors.index.json", '{"weight_map": 3}'),
    ],
)
def test_damage_of_any_sort_is_one_sentence(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=f"{folder} (cannot be used|is a model of type)"):
        TransformersReranker(folder)


def test_files_beyond_all_measure_are_not_parsed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(folder / "vocab.json", "wb") as file:
        os.truncate(file.fileno(), transformers_folder.MAX_BYTES + 1)
    with pytest.raises(InputError, match=r"vocab\.json has 67108865 bytes"):
        load_reranker(folder)


def test_a_hub_name_is_fetched_as_tables_and_tensors_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by us alone: what transformers is given is a folder."""
    asked: list[list[str]] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a: str(folder / "config.json"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    scores = load_reranker("somebody/clip").score(["large"], torch.rand(1, 3, 40, 40))
    assert torch.isfinite(scores).all()
    assert asked == [["*.json", "*.safetensors", "*.txt", "*.model"]]
