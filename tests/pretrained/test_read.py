"""From a path to what lies there: files, folders, tars, and what DeepSpeed leaves."""

import io
import tarfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dalle.errors import CheckpointError, InputError
from dalle.pretrained.read import read
from dalle.pretrained.recognize import convert, recognise
from tests.pretrained.originals import original_state, saved

STATE = {"a.weight": torch.arange(3.0), "b": torch.ones(2, 2)}


def equal(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(state[k].equal(STATE[k]) for k in STATE)


@pytest.mark.parametrize(
    "value",
    [
        STATE,
        OrderedDict(STATE),
        {"state_dict": STATE, "epoch": 1},
        {"weights": STATE, "hparams": {"dim": 2}},
        {"model": {"x": torch.ones(1)}, "ema": STATE, "steps": 7},
        {"module": {f"module.{key}": tensor for key, tensor in STATE.items()}},
    ],
)
def test_the_state_dict_is_found_in_what_wraps_it(tmp_path: Path, value: object) -> None:
    (path := tmp_path / "file").write_bytes(saved(value))
    [weights] = read(path).weights
    assert equal(weights.state) and weights.path == path


def test_safetensors_are_read_and_truncated_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    assert equal(read(path).weights[0].state)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated or no safetensors"):
        read(path)


def test_a_whole_module_gives_its_state_dict(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm2d(4)))
    (path := tmp_path / "module.pkl").write_bytes(saved(module))
    state = read(path).weights[0].state
    assert state.keys() == module.state_dict().keys()
    assert all(state[key].equal(tensor) for key, tensor in module.state_dict().items())


def tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_and_folders_hold_several_files(tmp_path: Path, mode: str) -> None:
    files = {"1.3B/last.ckpt": saved({"state_dict": STATE}), "1.3B/bpe/vocab.json": b"{}"}
    source = read(tar(tmp_path / "1.3B.tar.gz", files, mode))
    assert equal(source.weights[0].state)
    assert source.weights[0].path == tmp_path / "1.3B.tar.gz/1.3B/last.ckpt"
    assert source.beside == {"1.3B/bpe/vocab.json": b"{}"}
    for name, data in files.items():
        (tmp_path / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "unpacked" / name).write_bytes(data)
    unpacked = read(tmp_path / "unpacked")
    assert equal(unpacked.weights[0].state) and unpacked.beside == source.beside


def test_tars_that_reach_out_or_swell_are_refused(tmp_path: Path) -> None:
    outside = tar(tmp_path / "out.tar", {"../canary": b"x"})
    with pytest.raises(CheckpointError, match="damaged archive"):
        read(outside)
    assert not (tmp_path.parent / "canary").exists()
    swollen = tar(tmp_path / "bomb.tar.gz", {"zeros": bytes(2**26)})
    assert swollen.stat().st_size < 2**17
    with pytest.raises(CheckpointError, match="unpacks to far more than it is"):
        read(swollen)
    whole = tar(tmp_path / "whole.tar.gz", {"a": saved(STATE)}).read_bytes()
    (cut := tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged archive"):
        read(cut)


def test_what_holds_no_tensors_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match="holds no file of tensors"):
        read(tmp_path)
    (text := tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"readme\.txt is not read"):
        read(text)


AUXILIARY = {"hparams": {"dim": 2}, "weights": "For DeepSpeed, see the folder", "version": "1.6.6"}


def deepspeed_folder(folder: Path, **steps: object) -> Path:
    folder.mkdir()
    (folder / "auxiliary.pt").write_bytes(saved(AUXILIARY))
    for step, module in steps.items():
        (folder / step).mkdir()
        (folder / step / "mp_rank_00_model_states.pt").write_bytes(saved({"module": module}))
    return folder


def test_a_deepspeed_folder_is_put_together(tmp_path: Path) -> None:
    old = {key: torch.zeros_like(tensor) for key, tensor in STATE.items()}
    folder = deepspeed_folder(tmp_path / "ds", global_step9=old, global_step10=STATE)
    [weights] = read(folder).weights
    assert equal(weights.state) and equal(weights.value["weights"])
    assert weights.value["version"] == "1.6.6"
    (folder / "latest").write_text("global_step9\n")
    assert read(folder).weights[0].state["b"].sum() == 0


def test_a_deepspeed_folder_without_whole_weights_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights: they are in a folder global_step"):
        read(deepspeed_folder(tmp_path / "alone"))
    divided = deepspeed_folder(tmp_path / "zero3")
    (divided / "global_step1").mkdir()
    (divided / "global_step1" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ZeRO stage 3 divided.*zero_to_fp32\.py"):
        read(divided)
    (lonely := tmp_path / "auxiliary.pt").write_bytes(saved(AUXILIARY))
    with pytest.raises(CheckpointError, match=r"auxiliary\.pt.*folder"):
        convert(read(lonely))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["word_embeddings.weight", "transformer.layers.0.third_layernorm.weight"], "CogView"),
        (["enc_b.blocks.0.weight", "quantize_t.embed"], "CogView's VQ-VAE"),
        (["layers.0.self_attn_layer_norm.weight", "layers.0.glu.fc0.weight"], "dalle-mini"),
    ],
)
def test_what_is_not_loaded_is_named(tmp_path: Path, keys: list[str], said: str) -> None:
    (path := tmp_path / "weights").write_bytes(saved({key: torch.ones(1) for key in keys}))
    assert said in recognise(read(path)).family
    with pytest.raises(CheckpointError, match=f"{said}.*is not loaded here: "):
        convert(read(path))


def test_flax_weights_of_dalle_mini_are_named(tmp_path: Path) -> None:
    """In msgpack, which is not read: a map of two, the first entry `lm_head` with its kernel."""
    (path := tmp_path / "flax_model.msgpack").write_bytes(
        b"\x82\xa7lm_head\x81\xa6kernel\xc8\x10\x00" + bytes(5000)
    )
    assert "dalle-mini" in recognise(read(path)).family
    assert "dalle-mini" in recognise(read(tmp_path)).family


def test_what_no_family_knows_is_said_with_its_keys(tmp_path: Path) -> None:
    (path := tmp_path / "weights").write_bytes(saved(STATE))
    with pytest.raises(CheckpointError, match=r"of no family.*2 tensors are called 'a\.weight'"):
        recognise(read(path))


def test_what_a_name_says_does_not_count(tmp_path: Path) -> None:
    (path := tmp_path / "rudalle-Malevich.bin").write_bytes(saved(original_state("llamagen_vq")))
    assert recognise(read(path)).family == "LlamaGen"
