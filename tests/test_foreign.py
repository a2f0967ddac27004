"""Other projects' checkpoints wherever a model is expected, and as folders of ours."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

import dalle
from dalle.checkpoint import IMAGE_TOKENIZERS, foreign, hub, load_folder
from dalle.cli import main
from dalle.cli.picture_codes import image_tokenizer_folder, load_image_tokenizer
from dalle.errors import CheckpointError, InputError
from dalle.pretrained import recognize
from dalle.pretrained.vqgan import from_state
from dalle.tokenizers.image import ModelTokenizer
from tests.fakes import tiny_dalle, tiny_dvae, tiny_text_tokenizer
from tests.pretrained import toy_family
from tests.pretrained.originals import answers, original_state, saved

YAML = "model:\n  params: {embed_dim: 32, n_embed: 64, ddconfig: {resolution: 32}}\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(recognize, "FAMILIES", ("tests.pretrained.toy_family", *recognize.FAMILIES))
    return tmp_path / "cache"


@pytest.fixture
def vqgan(tmp_path: Path) -> Path:
    """A file of taming-transformers with its .yaml beside."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "model.yaml").write_text(YAML)
    (folder / "last.ckpt").write_bytes(saved({"state_dict": original_state("taming_vqgan")}))
    return folder / "last.ckpt"


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    (path := tmp_path / "toy" / "toy.bin").write_bytes(saved(toy_family.original()))
    (tmp_path / "toy" / "toy.txt").write_text("its text tokenizer")
    return path


def test_a_converted_folder_needs_the_original_no_more(
    vqgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = hashlib.sha256(vqgan.read_bytes()).hexdigest()
    assert main(["convert", str(vqgan), str(tmp_path / "ours")]) == 0
    assert "taming-transformers VQGAN, image tokenizer" in capsys.readouterr().out
    shutil.rmtree(vqgan.parent)
    loaded = load_folder(tmp_path / "ours", kind=IMAGE_TOKENIZERS)
    golden = answers("taming_vqgan")
    assert torch.equal(ModelTokenizer(loaded.module).encode(golden["image"]), golden["codes"])
    source = loaded.extra["source"]
    assert source["sha256"] == {"last.ckpt": digest}
    assert source["family"] == "taming-transformers" and "MIT" in source["licence"]
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "again")]) == 2
    assert "is a model folder of ours already" in capsys.readouterr().err


def test_a_file_is_converted_once_and_again_when_it_changes(
    vqgan: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = load_folder(vqgan, kind="vqgan")
    assert first.path.is_relative_to(cache)
    assert load_folder(vqgan).path == first.path
    assert caplog.text.count("is converted once") == 1
    vqgan.write_bytes(saved({"state_dict": original_state("mindalle_vqgan"), "epoch": 2}))
    assert load_folder(vqgan).path != first.path
    with pytest.raises(CheckpointError, match="kind 'vqgan'; expected 'clip'"):
        load_folder(vqgan, kind="clip")
    assert len(list((cache / "dalle" / "converted").iterdir())) == 2


def test_a_vqgan_tokenizes_for_training(vqgan: Path) -> None:
    folder = image_tokenizer_folder(str(vqgan), begun=None)
    tokenizer = load_image_tokenizer(folder, device="cpu")
    model = from_state(original_state("taming_vqgan"), path=vqgan, image_size=(32, 32))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(tokenizer.encode(images), ModelTokenizer(model).encode(images))


def test_a_dalle_trains_and_generates_on_a_vqgan(
    vqgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(tmp_path / "run"), tmp_path / "pictures"
    train = ["train", "dalle", "--preset", "tiny", "--device", "cpu", "--out", run]
    assert main([*train, "--vae", str(vqgan)]) == 0
    shutil.rmtree(vqgan.parent)
    assert main(["generate", "--model", run, "--device", "cpu", "--out", str(out), "a ring"]) == 0
    [picture] = json.loads((out / "generation.json").read_text())["pictures"]
    assert len(picture["codes"]) == 8 and max(map(max, picture["codes"])) < 64


def test_a_decoders_file_generates_as_the_model_in_it(
    decoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = dalle.load(decoder, device="cpu")
    text = tiny_text_tokenizer()
    direct = dalle.Pipeline(
        tiny_dalle(text), text_tokenizer=text, image_tokenizer=dalle.DvaeTokenizer(tiny_dvae())
    )
    ours = loaded.generate("a red cube", num_samples=3)
    theirs = direct.generate("a red cube", num_samples=3, temperature=0.5, top_k=3)
    assert [p.codes.tolist() for p in ours] == [p.codes.tolist() for p in theirs]
    assert ours[0].made.model == str(decoder)
    assert "non-commercial use only (CC-BY-NC-SA 4.0)" in caplog.text
    again = dalle.load(loaded.save(tmp_path / "saved"), device="cpu")
    assert again.origin.source == loaded.origin.source
    assert again.origin.source is not None and again.origin.source["version"] == "2"
    assert [p.codes.tolist() for p in again.generate("a red cube", num_samples=3)] == [
        p.codes.tolist() for p in ours
    ]


def test_what_is_missing_is_said_and_taken_once_it_is_there(decoder: Path) -> None:
    (beside := decoder.with_suffix(".txt")).unlink()
    with pytest.raises(
        CheckpointError,
        match=r"toy\.bin draws no pictures without its text tok",
    ):
        dalle.load(decoder, device="cpu")
    beside.write_text("its text tokenizer")
    assert dalle.load(decoder, device="cpu").generate("a ring")


def test_an_unfinished_conversion_leaves_nothing(decoder: Path, cache: Path) -> None:
    state = toy_family.original()
    key = sorted(state)[0]
    decoder.write_bytes(saved({k: v for k, v in state.items() if k != key}))
    with pytest.raises(CheckpointError, match=f"lacks '{key}'"):
        dalle.load(decoder, device="cpu")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_inspect_says_what_a_checkpoint_is(
    vqgan: Path, decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(vqgan)]) == 0
    said = capsys.readouterr().out
    assert "taming-transformers VQGAN, image tokenizer\n  picture 32 x 32, cell 4, codes 64" in said
    assert "licence: MIT" in said and "tensors, float32" in said
    assert main(["inspect", str(decoder.parent)]) == 0
    assert "Toy 2, text to image" in capsys.readouterr().out
    decoder.write_bytes(saved({"unknown": torch.ones(1)}))
    assert main(["inspect", str(decoder)]) == 2
    assert "of no family that is known here" in capsys.readouterr().err


def test_a_file_on_the_hub_is_fetched_with_its_revision(
    vqgan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "hub" / "snapshots" / ("c" * 40)
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    blob = blobs / hashlib.sha256(vqgan.read_bytes()).hexdigest()
    shutil.copy(vqgan, blob)
    (snapshot / "last.ckpt").symlink_to(blob)
    (snapshot / "model.yaml").write_text(YAML)
    asked = []

    def small(name: str, **options: object) -> str:
        asked.append((name, options["revision"]))
        return str(snapshot)

    def fetch(name: str, file: str, *, revision: str | None) -> str:
        if file != "last.ckpt":
            raise EntryNotFoundError("gone")
        asked.append((name, revision))
        return str(snapshot / file)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", small)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    loaded = load_folder("owner/vqgans@v1/last.ckpt")
    assert asked == [("owner/vqgans", "v1")] * 2
    assert loaded.config.image_height == 32
    assert loaded.extra["source"]["revision"] == "c" * 40
    with pytest.raises(InputError, match="the hub has no such file"):
        load_folder("owner/vqgans/other.ckpt")
    blob.write_bytes(saved({"state_dict": original_state("taming_gumbel_vqgan")}))
    with pytest.raises(CheckpointError, match="is not the file that the hub has"):
        load_folder("owner/vqgans@v1/last.ckpt")


def test_addresses_of_the_hub_are_its_files_and_others_are_not_fetched() -> None:
    address = "https://huggingface.co/owner/old/resolve/v1/some/dalle.pt"
    expected = hub.Place("owner/old", "v1", "some/dalle.pt")
    assert hub.place_of(address) == hub.place_of(f"{address}?download=true") == expected
    for other in ("https://example.org/dalle.pt", "http://huggingface.co/owner/old/dalle.pt"):
        with pytest.raises(InputError, match=f"{other} is no address of a file on the hub"):
            dalle.load(other, device="cpu")
        for command in (["inspect", other], ["convert", other, "ours"]):
            assert main(command) == 2


def test_the_python_of_the_page_runs(vqgan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "pretrained.md").read_text("utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(vqgan.parent)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["wide"].image_size == (256, 512)
    assert names["converted"].sighting.family == "taming-transformers"


def test_a_gated_model_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, **options: object) -> str:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise GatedRepoError("gated", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(InputError, match=r"is gated: its owner lets in who asked.*hf auth login"):
        load_folder("owner/kandinsky")


def test_a_repository_of_several_weights_asks_which(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["pytorch_model_v2.bin", "pytorch_model_v3.bin", "readme.md"]

    class FakeApi:
        def model_info(self, name: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=r"several files.*name one: owner/rudalle/pytorch_model_v"):
        load_folder("owner/rudalle")
    asked = []

    def fetch(name: str, file: str, **options: object) -> str:
        asked.append((name, file))
        raise EntryNotFoundError("gone")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **b: "")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    files.pop(0)
    with pytest.raises(InputError, match="the hub has no such file"):
        load_folder("owner/rudalle")
    assert asked == [("owner/rudalle", "pytorch_model_v3.bin")]
    files.clear()
    with pytest.raises(InputError, match="holds no file of weights"):
        load_folder("owner/rudalle")


def test_what_is_ours_is_not_foreign(tmp_path: Path, vqgan: Path) -> None:
    ours = load_folder(vqgan).path
    assert not foreign.is_foreign(ours) and not foreign.is_foreign(tmp_path / "logs" / "none")
    (ours / "MANIFEST.json").unlink()
    assert not foreign.is_foreign(ours)
    assert foreign.is_foreign(vqgan) and foreign.is_foreign(vqgan.parent)
