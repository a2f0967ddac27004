"""Training goes on from a trained decoder: ours, and those of other projects."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dalle
from dalle.checkpoint import load_folder, save_model_folder
from dalle.cli import main
from dalle.pretrained.dalle_pytorch.model import DallePytorch
from tests.fakes import tiny_dalle, tiny_dvae, tiny_text_tokenizer
from tests.pretrained.dalle_pytorch import originals
from tests.pretrained.dalle_pytorch.test_folder import tokenizer_json

TINY = ["train", "dalle", "--preset", "tiny", "--device", "cpu"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of our own."""
    text = tiny_text_tokenizer()
    model = tiny_dalle(text)
    return save_model_folder(
        tmp_path_factory.mktemp("ours") / "model",
        kind="dalle",
        config=model.config,
        module=model,
        extra={"sampling": {"top_k": 5}},
        text_tokenizer=text,
        image_tokenizer=tiny_dvae(),
    )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A `dalle.pt` with the user's own tokenizer beside it."""
    (tmp_path / "old").mkdir()
    torch.save(originals.dalle_pt("a"), tmp_path / "old" / "dalle.pt")
    (tmp_path / "old" / "bpe.json").write_text(tokenizer_json(40))
    return tmp_path / "old" / "dalle.pt"


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Flags for a few captioned pictures."""
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("red", "green", "blue") * 8):
        Image.new("RGB", (24, 20), name).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text(f"a {name} ball on a cube")
    return ["--data", str(tmp_path / "photos"), "--held-out-share", "0.25"]


def test_training_begins_with_the_weights_of_another_model(
    ours: Path, photos: list[str], tmp_path: Path
) -> None:
    still = ["--steps", "1", "--lr", "1e-12", "--seed", "7", "--out", str(tmp_path / "run")]
    assert main([*TINY, *photos, "--start-from", str(ours), *still]) == 0
    before, after = load_folder(ours), load_folder(tmp_path / "run")
    for name, tensor in before.module.state_dict().items():
        mine = after.module.state_dict()[name]
        torch.testing.assert_close(mine, tensor, atol=1e-9, rtol=1e-6)
    assert after.config == before.config and after.extra["sampling"]["top_k"] == 5
    tokenizers = [(f.path / "text_tokenizer.json").read_bytes() for f in (before, after)]
    assert tokenizers[0] == tokenizers[1]


def test_an_old_model_is_trained_on_and_draws(old: Path, photos: list[str], tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    tune = [*TINY, *photos, "--start-from", str(old), "--out", run, "--ema-decay", "0.5"]
    assert main([*tune, "--steps", "2", "--lr", "1e-2"]) == 0
    shutil.rmtree(old.parent)
    shutil.rmtree(tmp_path / "cache")
    onward = ["train", "dalle", "--resume", run, "--steps", "4", "--allow-change", "steps"]
    assert main(onward) == 0
    model = dalle.load(run, device="cpu")
    assert isinstance(model.model, DallePytorch)
    assert model.sampling.top_k == 7
    assert model.origin.source is not None
    assert model.origin.source["family"] == "DALLE-pytorch"
    held_out = json.loads((tmp_path / "run" / "step-00000004" / "run.json").read_text())["held_out"]
    assert held_out["loss_image"] != held_out["loss_image_no_caption"]
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["generate", "--model", run, "a red cube", *out]) == 0
    assert list((tmp_path / "out").glob("0*.png"))


def test_going_on_with_an_old_model_is_exact(old: Path, photos: list[str], tmp_path: Path) -> None:
    tune = [
        *TINY,
        *photos,
        "--start-from",
        str(old),
        "--ema-decay",
        "0.5",
        "--save-every",
        "2",
        "--out",
    ]
    assert main([*tune, str(tmp_path / "unbroken")]) == 0
    broken = shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    shutil.rmtree(broken / "step-00000004")
    assert main([*tune, str(broken)]) == 0
    for name in ("model", "ema", "training/optimizer"):
        first, second = (
            load_file(tmp_path / run / "step-00000004" / f"{name}.safetensors")
            for run in ("unbroken", "broken")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(second[key], tensor) for key, tensor in first.items()), name


def test_what_the_model_has_of_its_own_cannot_be_set(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = [*TINY, "--start-from", str(ours), "--out", str(tmp_path / "run")]
    for flags in (
        ["--depth", "3"],
        ["--text-slots", "20"],
        ["--temperature", "0.5"],
        ["--vae", str(ours)],
    ):
        assert main([*start, *flags]) == 2
        assert f"{flags[0]} came with --start-from" in capsys.readouterr().err
    assert main(["plan", "dalle", "--preset", "tiny", "--start-from", str(ours)]) == 2
    assert "leave --start-from out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["openai_encoder.pkl", "dalle_pytorch_vae.pt"])
def test_a_new_decoder_trains_on_published_image_tokenizers(
    name: str, photos: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flags = [*photos, "--vae", str(originals.GOLDEN / name), "--out", str(run), "--steps", "1"]
    flags += ["--batch-size", "2"]
    assert main([*TINY, *flags, "--validate-samples", "2", "--preview-every", "0"]) == 0
    codec = load_folder(run / "step-00000001" / "image_tokenizer")
    assert codec.extra["source"]["sha256"]
    assert dalle.load(run, device="cpu").model.image_vocab == codec.module.vocab_size
