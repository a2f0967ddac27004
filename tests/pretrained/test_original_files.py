"""Files as the original projects wrote them, by their paths alone; and an old user's way with one.

tests/golden/dalle_pytorch_a.pt and dalle_pytorch_vae.pt were written by DALLE-pytorch 1.6.6 (MIT),
openai_encoder.pkl and openai_decoder.pkl by openai/DALL-E (Modified MIT), all in tiny sizes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dalle
from dalle.checkpoint import load_folder
from dalle.cli import main
from dalle.errors import CheckpointError, InputError
from tests.pretrained.dalle_pytorch import originals
from tests.pretrained.dalle_pytorch.test_folder import tokenizer_json
from tests.tokenizers.merges import stand_in_merges

GOLDEN = originals.GOLDEN
DECODER = GOLDEN / "dalle_pytorch_a.pt"
FILES = ["dalle_pytorch_a.pt", "dalle_pytorch_vae.pt", "openai_encoder.pkl", "openai_decoder.pkl"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_answers_as_its_project_did(name: str) -> None:
    module = load_folder(GOLDEN / name).module
    if name == "dalle_pytorch_a.pt":
        golden = originals.answers("a")
        text = originals.to_our_ids(golden["text"], module.text_vocab)
        output = module(text, golden["image_codes"])
        expected = golden["logits"][:, 6:, 46:]
        torch.testing.assert_close(output.image, expected, atol=1e-5, rtol=0)
    elif name == "dalle_pytorch_vae.pt":
        golden = originals.answers("vae")
        assert torch.equal(module.codes_of(golden["image"]).flatten(1), golden["codes"])
    else:
        golden = load_file(GOLDEN / "openai_dvae.safetensors")
        assert torch.equal(module.codes_of(golden["image"]), golden["codes"])


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_inspected_and_converted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(GOLDEN / name)]) == 0
    said = capsys.readouterr().out
    assert ("DALLE-pytorch" if name.endswith(".pt") else "OpenAI") in said
    assert main(["convert", str(GOLDEN / name), str(tmp_path / "ours")]) == 0
    assert ("missing: its text tokenizer" in capsys.readouterr().out) == (name == FILES[0])
    theirs, ours = (load_folder(p).module.state_dict() for p in (GOLDEN / name, tmp_path / "ours"))
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


def test_what_lacks_its_text_tokenizer_says_so_and_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = ["generate", "a red cube", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["convert", str(DECODER), str(tmp_path / "bare")]) == 0
    for model in (DECODER, tmp_path / "bare"):
        assert main([*generate, "--model", str(model)]) == 2
        said = capsys.readouterr().err
        assert "draws no pictures without its text tokenizer of 40 entries" in said
        assert "put it beside the model, as .json or .model, or name it with --text-tok" in said
    (tmp_path / "wrong.json").write_text(tokenizer_json(39))
    for file, error, words in (
        ("wrong.json", CheckpointError, "is not the text tokenizer that"),
        ("none.json", InputError, "is no text tokenizer; expected a file"),
    ):
        with pytest.raises(error, match=words):
            dalle.load(DECODER, device="cpu", text_tokenizer=tmp_path / file)
    (tmp_path / "bpe.json").write_text(tokenizer_json(40))
    given = ["--text-tokenizer", str(tmp_path / "bpe.json")]
    assert main([*generate, "--model", str(DECODER), *given]) == 0
    assert list((tmp_path / "out").glob("0*.png"))
    assert main(["convert", str(DECODER), str(tmp_path / "whole"), *given]) == 0
    assert dalle.load(tmp_path / "whole", device="cpu").text_tokenizer.vocab_size == 40
    with pytest.raises(InputError, match="is a model folder, which holds its text tokenizer"):
        dalle.load(tmp_path / "whole", device="cpu", text_tokenizer=tmp_path / "bpe.json")


def test_what_was_lacking_is_found_once_it_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = large_vocabulary(tmp_path / "old")
    (old.parent / "bpe_simple_vocab_16e6.txt").rename(tmp_path / "merges.txt")
    with pytest.raises(CheckpointError, match="without its text tokenizer of 49408 entries"):
        dalle.load(old, device="cpu")

    # Nothing in its folder changes: the hub can be reached again.
    def download(model: str, file: str) -> str:
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert dalle.load(old, device="cpu").text_tokenizer.vocab_size == 49408


def large_vocabulary(folder: Path) -> Path:
    """A `dalle.pt` with CLIP's number of entries, beside merges of that many."""
    folder.mkdir()
    value = originals.dalle_pt("a")
    value["hparams"] = {**value["hparams"], "num_text_tokens": 49408}
    weights = value["weights"]
    for name, rows in (
        ("text_emb.weight", 6),
        ("to_logits.1.weight", 38),
        ("to_logits.1.bias", 38),
    ):
        weights[name] = originals.fill(name, [49408 + rows, *weights[name].shape[1:]])
    torch.save(value, folder / "dalle.pt")
    (folder / "bpe_simple_vocab_16e6.txt").write_text(stand_in_merges(), encoding="utf-8")
    return folder / "dalle.pt"


def test_an_old_model_to_pictures_in_one_command(tmp_path: Path) -> None:
    old, script = large_vocabulary(tmp_path / "old"), Path(__file__).parents[2] / "generate.py"
    done = subprocess.run(
        [sys.executable, str(script), "--model", str(old), "a bird on a branch"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(script.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 pictures in pictures" in done.stdout
    assert (tmp_path / "pictures" / "contact-sheet.png").is_file()
    assert len(list((tmp_path / "pictures").glob("0*.png"))) == 1
