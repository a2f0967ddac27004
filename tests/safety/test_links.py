"""Names and links that lead out of a folder: nothing is read, copied, sent or written there."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dalle import checkpoint
from dalle.checkpoint import links
from dalle.errors import CheckpointError, InputError
from dalle.training.loop import TrainConfig, train
from tests.fakes import tiny_dvae
from tests.toys import ToySource, ToyTask

SECRET = "the key to everything"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder, beside which lies a secret."""
    (tmp_path / "secret").write_text(SECRET)
    model = tiny_dvae()
    return checkpoint.save_model_folder(
        tmp_path / "model", kind="dvae", config=model.config, module=model
    )


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/hostname",
        "a/../../secret",
        "..\\secret",
        "C:\\secret",
        "C:secret",
        "a\nb",
    ],
)
def test_a_manifest_cannot_point_outside_its_folder(folder: Path, name: str) -> None:
    path = folder / "MANIFEST.json"
    data = json.loads(path.read_text())
    data["files"][name] = {"bytes": len(SECRET), "sha256": "0" * 64}
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="names a file outside its folder") as caught:
        checkpoint.load_folder(folder)
    assert repr(name) in str(caught.value)


LINKS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "notes.txt").symlink_to("../secret"),
    "an absolute file": lambda folder: (folder / "notes.txt").symlink_to(folder.parent / "secret"),
    "a folder": lambda folder: (folder / "notes").symlink_to(".."),
    "a circle": lambda folder: (folder / "notes").symlink_to("."),
    "nowhere": lambda folder: (folder / "notes.txt").symlink_to("../../nowhere"),
    "deep": lambda folder: (
        (folder / "deep").mkdir() or (folder / "deep" / "x.json").symlink_to("../../secret")
    ),
}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_takes_nothing_along(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    LINKS[link](folder)
    model = tiny_dvae(seed=1)
    with pytest.raises(InputError, match=r"is a link to .*, outside its model folder; put"):
        checkpoint.save_model_folder(
            tmp_path / "copy", kind="dvae", config=model.config, module=model, reranker=folder
        )
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(".tmp-*"))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("something was sent"))
    with pytest.raises(InputError, match="is a link to"):
        checkpoint.push(folder, "me/birds")


def test_the_links_of_the_hubs_cache_are_no_harm(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = (
        tmp_path / "models--me" / "snapshots" / "0f",
        tmp_path / "models--me" / "blobs",
    )
    blobs.mkdir(parents=True)
    (snapshot / "image_tokenizer").mkdir(parents=True)
    for number, path in enumerate(folder.iterdir()):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
        (snapshot / "image_tokenizer" / path.name).symlink_to(f"../../../blobs/{number}")
    for where in (snapshot, snapshot / "image_tokenizer"):
        model = tiny_dvae(seed=1)
        copy = checkpoint.save_model_folder(
            tmp_path / "copy", kind="dvae", config=model.config, module=model, reranker=where
        )
        assert checkpoint.load_folder(copy / "reranker").config == model.config
        assert not (copy / "reranker" / "config.json").is_symlink()
    (snapshot / "notes.txt").symlink_to("../../../secret")
    with pytest.raises(InputError, match="notes"):
        links.refuse_links_outside(snapshot)


def train_toy(out: Path, steps: int = 4) -> object:
    config = TrainConfig(
        steps=steps, batch_size=4, save_every=2, preview_every=2, log_every=1, device="cpu"
    )
    return train(ToyTask(), config, train_source=ToySource(), held_out_source=ToySource(), out=out)


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "metrics.jsonl",
        ".metrics.jsonl.tmp",
        "bad_samples.jsonl",
        "logs",
        "logs/process-00000.log",
        "previews",
        "previews/step-00000002",
        "previews/step-00000002/toy.png",
        ".tmp-2-{pid}",
    ],
)
def test_a_run_does_not_write_where_a_link_leads(tmp_path: Path, name: str) -> None:
    name = name.format(pid=os.getpid())
    out, secret = tmp_path / "run", tmp_path / "secret"
    (out / name).parent.mkdir(parents=True)
    if name in ("logs", "previews") or name.startswith(".tmp") or name.endswith("2"):
        secret.mkdir()
        (secret / "key").write_text(SECRET)
    else:
        secret.write_text(SECRET)
    (out / name).symlink_to(secret)
    with pytest.raises(InputError, match=r"is a link; a run writes into its own folder only"):
        train_toy(out)
    assert (secret / "key" if secret.is_dir() else secret).read_text() == SECRET
    assert not secret.is_dir() or [path.name for path in secret.iterdir()] == ["key"]


def test_a_run_and_its_steps_may_be_links_themselves(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    train_toy(tmp_path / "run")
    step = tmp_path / "disk" / "step-00000002"
    step.rename(tmp_path / "elsewhere")
    step.symlink_to(tmp_path / "elsewhere")
    train_toy(tmp_path / "run")
    assert (tmp_path / "elsewhere" / "config.json").exists()
