import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dalle import checkpoint
from dalle.checkpoint import folder as folder_module
from dalle.checkpoint import hub, load, manifest, steps
from dalle.checkpoint.weights import read_tensors
from dalle.errors import CheckpointError, InputError, NoWholeCheckpoint, SaveError
from tests.toys import Toy, ToyConfig

Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.fixture(autouse=True)
def toy_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.KINDS, "dvae", ("tests.toys", "ToyConfig", "Toy"))


def make_folder(path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    toy = Toy(ToyConfig(inputs=3, width=5))
    return checkpoint.save_model_folder(path, kind="dvae", config=toy.config, module=toy, **options)


def edit_config(folder: Path, **fields: object) -> None:
    """Change config.json and make the manifest agree, as somebody who means it would."""
    path = folder / "config.json"
    data = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(data))
    manifest.write_manifest(folder)


def make_run(path: Path, losses: dict[int, float | None]) -> Path:
    for step, loss in losses.items():
        folder = make_folder(steps.step_folder(path, step))
        held_out = None if loss is None else {"loss": loss}
        (folder / "run.json").write_text(json.dumps({"step": step, "held_out": held_out}))
        (folder / "training").mkdir()
        (folder / "training" / "optimizer.safetensors").write_bytes(b"moments")
        manifest.write_manifest(folder)
    return path


def test_a_saved_model_loads_with_the_same_weights_and_config(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", extra={"note": "hello", "size": [2, 3]})
    loaded = checkpoint.load_folder(folder)
    torch.manual_seed(0)
    original = Toy(ToyConfig(inputs=3, width=5))
    assert loaded.config == original.config and loaded.kind == "dvae" and loaded.step is None
    assert loaded.extra == {"note": "hello", "size": [2, 3]}
    assert not loaded.module.training
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor)
    assert all(p.requires_grad for p in loaded.module.parameters())
    x, kind = torch.ones(1, 3), torch.tensor([1])
    # The buffer is real too.
    assert torch.equal(loaded.module(x, kind).value, original.eval()(x, kind).value)


def test_loaded_tensors_are_aligned_as_fresh_ones_are(tmp_path: Path) -> None:
    odd = {f"t{i}": torch.ones(i) for i in range(1, 12)}
    save_file(odd, tmp_path / "odd.safetensors")
    read = read_tensors(tmp_path / "odd.safetensors", "cpu")
    assert {tensor.data_ptr() % 64 for tensor in read.values()} == {0}


def test_averaged_weights_are_taken_unless_others_are_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(1)
    folder = make_folder(tmp_path / "model", ema=Toy(ToyConfig(inputs=3, width=5)))
    ema, plain = (load_file(folder / f"{name}.safetensors") for name in ("ema", "model"))
    choices: list[tuple[Any, dict[str, torch.Tensor]]]
    choices = [("auto", ema), ("ema", ema), ("model", plain)]
    for weights, expected in choices:
        loaded = checkpoint.load_folder(folder, weights=weights)
        assert torch.equal(loaded.module.state_dict()["last.bias"], expected["last.bias"])
        assert loaded.weights == ("model" if weights == "model" else "ema")
    (folder / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is missing"):
        checkpoint.load_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "MANIFEST.json"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "delete"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, harm: str) -> None:
    folder = make_folder(tmp_path / "model")
    path = folder / name
    data = bytearray(path.read_bytes())
    if harm == "delete" and name == "MANIFEST.json":
        path.unlink()  # a folder copied by hand: accepted, its files are checked as far as they go
        assert checkpoint.load_folder(folder).kind == "dvae"
        return
    if harm == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        data[len(data) - 3] ^= 0x10
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        checkpoint.load_folder(folder)


def test_truncated_weights_are_refused_without_a_manifest_too(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / "MANIFEST.json").unlink()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        checkpoint.load_folder(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, r"format 2; this version reads up to format 1: update dalle"),
        ({"format": "1"}, "needs a whole number as field `format`"),
        ({"kind": "vqgan"}, "kind is 'vqgan'; this version knows 'dvae'"),
        ({"model": {"inputs": 3, "width": 5, "colour": 1}}, r"model\.colour is not a field"),
        ({"model": {"inputs": "3"}}, r"model\.inputs is '3'"),
        ({"model": {"inputs": 3, "width": 6}}, r"has shape \(5.*\(6"),
        ({"model": {"inputs": 3, "width": 4}}, r"has shape \(5"),
        ({"model": {"depth": 10**12}}, "larger model than the weights beside it"),
        ({"model": {"inputs": 10**12, "width": 10**6}}, r"has shape .* \(1000000"),
        ({"model": {"inputs": 10**12, "width": 10**12}}, "describes no model"),
        ({"model": {"inputs": -1, "width": 5}}, "describes no model"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    folder = make_folder(tmp_path / "model")
    edit_config(folder, **fields)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_folder(folder)


def test_a_missing_field_and_other_json_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / "MANIFEST.json").unlink()
    for text, message in (
        ('{"format": 1, "kind": "dvae"}', "field `model` is missing"),
        ("[1, 2]", "not a config of ours"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load_folder(folder)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    with pytest.raises(CheckpointError, match="kind 'dvae'; expected 'dalle'"):
        checkpoint.load_folder(folder, kind="dalle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "extra": torch.zeros(1)}, "holds 'extra', which its config does not know"),
        (lambda t: {k: v for k, v in t.items() if "last" not in k}, "lacks 'last.bias' and 1 more"),
        (lambda t: {**t, "last.bias": torch.full((1,), torch.nan)}, "not finite"),
        (lambda t: {**t, "last.bias": torch.zeros(1, dtype=torch.int32)}, "is I32; expected one"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    folder = make_folder(tmp_path / "model")
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)
    manifest.write_manifest(folder)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_folder(folder)


def test_a_header_that_promises_more_than_the_file_holds_costs_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / "MANIFEST.json").unlink()
    size = 4 * 10**12
    header = json.dumps(
        {"first.weight": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, size]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        checkpoint.load_folder(folder)


def test_the_newest_whole_step_is_found(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 3.0, 20: 2.0, 30: 1.0})
    assert checkpoint.load_folder(run).step == 30
    broken = steps.step_folder(run, 30) / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    found = steps.find_whole(run, training=True)
    assert found.step == 20
    assert found.path == checkpoint.latest_whole(run)
    assert [item.path.name for item in found.skipped] == ["step-00000030"]
    assert "truncated" in found.skipped[0].reason
    (steps.step_folder(run, 20) / "MANIFEST.json").unlink()
    assert steps.find_whole(run, training=True).step == 10
    shutil.rmtree(steps.step_folder(run, 10) / "training")
    assert checkpoint.load_folder(run).step == 10  # enough to generate from, not to train on
    with pytest.raises(
        NoWholeCheckpoint, match=r"3 checkpoints, none of them whole(.|\n)*training"
    ):
        steps.find_whole(run, training=True)


def test_the_last_few_steps_and_the_best_one_stay(tmp_path: Path) -> None:
    nan = float("nan")
    run = make_run(tmp_path / "run", {1: 3.0, 2: 1.0, 3: nan, 4: 2.0, 5: None, 6: 2.5})
    (steps.step_folder(run, 6) / "MANIFEST.json").write_text("half")
    gone = steps.prune_steps(run, newest=5, keep_last=2)
    assert [path.name[-1] for path in gone] == ["1", "3"]
    assert [path.name[-1] for path in steps.list_steps(run)] == ["2", "4", "5", "6"]
    assert steps.best_step(run) == steps.step_folder(run, 2)
    assert not list(run.glob(".tmp-*"))


def test_no_step_goes_before_the_newest_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 3.0, 2: 1.0, 3: 2.0})
    (steps.step_folder(run, 3) / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="was not written to its end"):
        steps.prune_steps(run, newest=3, keep_last=1)
    assert [steps.step_of(path) for path in steps.list_steps(run)] == [1, 2, 3]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        manifest.whole_folder(tmp_path / "step-00000001", "1") as inside,
    ):
        (inside / "file").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_path_and_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "model")
    before = (tmp_path / "model" / "MANIFEST.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaveError, match=r"cannot write .*model.*: No space left.* MB are free"):
        make_folder(tmp_path / "model")
    assert (tmp_path / "model" / "MANIFEST.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def spy_fsync(descriptor: int) -> None:
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def spy_rename(source: str, target: str) -> None:
        events.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "rename", spy_rename)
    with manifest.whole_folder(tmp_path / "step-00000007", "7") as inside:
        (inside / "a").write_text("a")
        (inside / "deep").mkdir()
        (inside / "deep" / "b").write_text("b")
    renamed = events.index(("rename", "step-00000007"))
    before = [name for what, name in events[:renamed]]
    assert before[:3] == ["a", "b", "MANIFEST.json"]
    assert {"deep", f".tmp-7-{os.getpid()}"} <= set(before[3:])
    assert events[renamed + 1 :] == [("fsync", tmp_path.name)]


def test_a_replaced_folder_has_its_name_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "model")
    events: list[str] = []
    for module, name in ((os, "rename"), (folder_module, "sync_folder"), (shutil, "rmtree")):
        call = getattr(module, name)

        def spy(*args: Any, name: str = name, call: Any = call, **options: Any) -> Any:
            events.append(f"{name} {Path(args[-1]).name}")
            return call(*args, **options)

        monkeypatch.setattr(module, name, spy)
    make_folder(tmp_path / "model")
    old = f".tmp-old-model-{os.getpid()}"
    assert events[-4:] == [
        f"rename {old}",
        "rename model",
        f"sync_folder {tmp_path.name}",
        f"rmtree {old}",
    ]


def test_saving_again_replaces_a_model_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "deep" / "model")
    (folder / "old.txt").write_text("old")
    make_folder(folder)
    assert not (folder / "old.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_mother.txt").write_text("dear")
    with pytest.raises(InputError, match="is no model folder"):
        make_folder(tmp_path / "letters")
    assert (tmp_path / "letters" / "to_mother.txt").read_text() == "dear"


def test_neighbours_are_model_folders_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "vae", {5: 1.0})
    toy = Toy(ToyConfig(inputs=2, width=4))
    folder = make_folder(tmp_path / "model", image_tokenizer=run, reranker=toy)
    inner = checkpoint.load_folder(folder / "image_tokenizer", kind="dvae")
    assert inner.config == ToyConfig(inputs=3, width=5)
    assert not (folder / "image_tokenizer" / "training").exists()
    assert checkpoint.load_folder(folder / "reranker").config == toy.config
    weights = folder / "reranker" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpoint.load_folder(folder).kind == "dvae"  # each is read, and checked, when needed
    with pytest.raises(CheckpointError, match="truncated"):
        checkpoint.load_folder(folder / "reranker")


def test_paths_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model folder"):
        checkpoint.load_folder(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        checkpoint.load_folder(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        checkpoint.load_folder(tmp_path)


def test_a_hub_name_is_downloaded_only_where_no_path_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: list[tuple[str, list[str]]] = []
    folder = make_folder(tmp_path / "remote")

    def fake(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name == "owner/absent":
            raise LocalEntryNotFoundError("offline")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.chdir(tmp_path)
    assert checkpoint.load_folder("owner/birds").path == folder
    assert asked == [("owner/birds", ["*.json", "*.safetensors", "*.txt"])]
    make_folder(tmp_path / "owner" / "birds")
    assert checkpoint.load_folder("owner/birds").path == Path("owner/birds")
    with pytest.raises(InputError, match=r"the hub cannot be reached \(offline\?\)"):
        checkpoint.load_folder("owner/absent")
    with pytest.raises(InputError, match="no model folder"):
        checkpoint.load_folder("../owner/absent")
    assert len(asked) == 2


def test_pushing_uploads_the_folder_without_what_only_training_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    calls: list[tuple[str, dict[str, Any]]] = []

    class FakeApi:
        def create_repo(self, name: str, **options: object) -> None:
            calls.append((name, options))

        def upload_folder(self, **options: object) -> str:
            calls.append(("upload", options))
            return "address"

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    run = make_run(tmp_path / "run", {5: 1.0})
    assert checkpoint.push(run, "owner/birds") == "address"
    assert calls[0] == ("owner/birds", {"private": True, "exist_ok": True})
    assert calls[1][1]["folder_path"] == steps.step_folder(run, 5)
    assert "training/*" in calls[1][1]["ignore_patterns"]
    with pytest.raises(InputError, match="expected owner/name"):
        checkpoint.push(run, "birds")
    weights = steps.step_folder(run, 5) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(NoWholeCheckpoint):
        checkpoint.push(run, "owner/birds")
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("text", "is_name"),
    [
        ("owner/name", True),
        ("a-b/c.d_e", True),
        ("runs/a/b", False),
        ("/a/b", False),
        ("../b", False),
        ("name", False),
        ("owner/na me", False),
    ],
)
def test_hub_names_look_like_owner_and_name(text: str, is_name: bool) -> None:
    assert hub.looks_like_hub_name(text) is is_name
