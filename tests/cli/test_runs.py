"""The commands on the tiny presets: from drawn pictures to ranked ones."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from dalle.checkpoint.manifest import read_manifest, write_manifest
from dalle.checkpoint.steps import list_steps
from dalle.cli import main
from dalle.tokenizers.text import TextTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The folders of three tiny runs."""

    vae: Path
    clip: Path
    dalle: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("runs")
    folders = Trained(vae=root / "vae", clip=root / "clip", dalle=root / "dalle")
    common = ["--preset", "tiny", "--device", "cpu", "--out"]
    assert main(["train", "vae", *common, str(folders.vae)]) == 0
    assert main(["train", "clip", *common, str(folders.clip)]) == 0
    given = ["--vae", str(folders.vae), "--clip", str(folders.clip)]
    assert main(["train", "dalle", *common, str(folders.dalle), *given]) == 0
    return folders


def generate(trained: Trained, out: Path, *more: str) -> list[dict[str, object]]:
    """What the JSON file says of the pictures that a command made."""
    base = ["generate", "--model", str(trained.dalle), "--device", "cpu", "--out", str(out)]
    assert main([*base, *more]) == 0
    [record] = out.glob("generation.json")
    pictures: list[dict[str, object]] = json.loads(record.read_text())["pictures"]
    return pictures


def test_a_model_folder_is_enough(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "elsewhere" / "model"
    shutil.copytree(trained.dalle / "step-00000004", alone)
    elsewhere = Trained(vae=trained.vae, clip=trained.clip, dalle=alone)
    pictures = generate(
        elsewhere, tmp_path / "out", "a red circle", "", "--num-samples", "3", "--keep", "2"
    )
    assert [p["prompt"] for p in pictures] == ["a red circle"] * 2 + [""] * 2
    assert [p["score_kind"] for p in pictures] == ["clip"] * 2 + ["log_prob"] * 2
    assert len(list((tmp_path / "out").glob("0*.png"))) == 4
    said = capsys.readouterr().out
    assert "a red circle: the best of 3 by CLIP" in said
    assert "(no prompt): the best of 3 by the model's own ln p(picture | text)" in said
    assert f"contact sheet: {tmp_path / 'out' / 'contact-sheet.png'}" in said


def test_prompts_from_a_file_come_after_the_arguments(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a blue star\n\ngrün\n", encoding="utf-8")
    file = str(tmp_path / "prompts.txt")
    pictures = generate(trained, tmp_path / "out", "a ring", "--prompts", file, "--seed", "7")
    assert [p["prompt"] for p in pictures] == ["a ring", "a blue star", "grün"]
    assert {p["seed"] for p in pictures} == {7}


def test_prompts_of_a_file_may_have_numbers_of_their_own(trained: Trained, tmp_path: Path) -> None:
    lines = ['{"prompt": "a ring", "num_samples": 3, "seed": 5}', '{"prompt": "a star"}']
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    file = str(tmp_path / "prompts.jsonl")
    pictures = generate(
        trained, tmp_path / "out", "--prompts", file, "--num-samples", "2", "--no-graph"
    )
    assert [p["prompt"] for p in pictures] == ["a ring"] * 3 + ["a star"] * 2
    assert sorted(p["seed"] for p in pictures[:3]) == [5, 6, 7]
    assert sorted(p["seed"] for p in pictures[3:]) == [0, 1]


@pytest.mark.filterwarnings("always")
def test_a_prompt_that_is_cut_is_said_to_be(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [picture] = generate(trained, tmp_path / "out", "a red \x1b[1mcircle " * 10)
    assert isinstance(picture["num_cut"], int) and picture["num_cut"] > 0
    said = capsys.readouterr().err
    assert "warning: the model reads 15 tokens" in said
    assert "\x1b" not in said


def test_settings_of_sampling_arrive(trained: Trained, tmp_path: Path) -> None:
    flags = ["--temperature", "0.5", "--top-k", "5", "--top-p", "0.9", "--guidance", "2"]
    [picture] = generate(trained, tmp_path / "out", "a ring", *flags, "--rank-by", "log_prob")
    assert picture["sampling"] == {"temperature": 0.5, "top_k": 5, "top_p": 0.9, "guidance": 2.0}
    assert picture["score_kind"] == "log_prob"


def test_part_of_a_picture_is_kept(trained: Trained, tmp_path: Path) -> None:
    Image.new("RGB", (40, 50), "teal").save(tmp_path / "given.png")
    image = ["--image", str(tmp_path / "given.png"), "--temperature", "0"]
    codes = [
        generate(trained, tmp_path / name, "a ring", *image, "--rect", row, col)[0]["codes"]
        for name, row, col in (("one", "2", "0"), ("two", "3", "3"))
    ]
    one, two = (json.loads(json.dumps(c)) for c in codes)
    assert one[:2] == two[:2]
    assert [len(row) for row in one] == [4] * 4


def test_text_is_completed(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--model", str(trained.dalle), "--complete-text", "A red"]
    assert main([*command, "--num-samples", "2", "--out", str(tmp_path / "none")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a red")
    assert not (tmp_path / "none").exists()


def test_generation_says_what_is_wrong(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["generate", "--model", str(trained.dalle), "--out", str(tmp_path / "out")]
    for arguments, said in (
        ([*model], "no prompt came"),
        ([*model, "x", "--keep", "2"], "keep is 2"),
        ([*model, "x", "--rect", "1", "1"], "image prompt needs both"),
        ([*model, "x", "--clip", str(trained.vae)], "kind 'dvae'; expected 'clip'"),
        (["generate", "--model", str(trained.vae), "x"], "kind 'dvae'; expected 'dalle'"),
        (["generate", "--model", str(tmp_path / "no"), "x"], "there is no model folder"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_without_what_it_began_with(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, vae = tmp_path / "run", tmp_path / "vae"
    shutil.copytree(trained.dalle, out)
    shutil.copytree(trained.vae, vae)
    assert main(["train", "dalle", "--resume", str(out)]) == 0
    tokenizer = (out / "step-00000004" / "text_tokenizer.json").read_bytes()
    changed = ["train", "dalle", "--resume", str(out), "--steps", "6"]
    assert main(changed) == 2
    assert "steps: 4 then, 6 now" in capsys.readouterr().err
    shutil.rmtree(trained.vae)
    assert main([*changed, "--allow-change", "steps"]) == 0
    shutil.copytree(vae, trained.vae)
    newest = out / "step-00000006"
    assert (newest / "text_tokenizer.json").read_bytes() == tokenizer
    inside = [
        read_manifest(folder / "image_tokenizer")
        for folder in (newest, trained.dalle / "step-00000004")
    ]
    assert inside[0] == inside[1]


def test_another_tokenizer_is_refused_and_nothing_touched(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(trained.clip, tmp_path / "clip")
    for step in list_steps(out):
        TextTokenizer.train(["a red circle"] * 9, vocab_size=257).save(step / "text_tokenizer.json")
        write_manifest(step)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(["train", "clip", "--resume", str(out), "--device", "cpu"]) == 2
    assert "then, 257 now" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_training_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    for arguments, said in (
        (["train", "vae"], "--out is missing"),
        (["train", "vae", *out], "--data is missing"),
        (["train", "vae", "--preset", "tiny"], "--out is missing"),
        (["train", "dalle", *out, "--data", "shapes"], "--vae is missing"),
        (["train", "vae", *out, "--data", str(tmp_path / "no")], "does not exist"),
        (["train", "vae", *out, "--image-size", "1", "2", "3"], "image_size has 3 numbers"),
        (["train", "vae", *out, "--image-size", "65", "--data", "shapes"], "take 64"),
        (["train", "vae", "--resume", str(tmp_path)], "holds no run"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_can_be_shared(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "clip"
    given = ["--text-tokenizer", str(trained.dalle), "--text-vocab", "9999"]
    assert main(["train", "clip", "--preset", "tiny", "--out", str(out), *given]) == 0
    shared, own = (
        (run / "step-00000004" / "text_tokenizer.json").read_bytes() for run in (out, trained.dalle)
    )
    assert shared == own


def test_pictures_can_become_codes_once(trained: Trained, tmp_path: Path) -> None:
    given = ["--vae", str(trained.vae), "--views", "2", "--out", str(tmp_path / "run")]
    assert main(["train", "dalle", "--preset", "tiny", *given]) == 0
    assert not (tmp_path / "run" / "step-00000004" / "reranker").exists()


def test_inspect_says_what_is_in_a_folder(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(trained.dalle)]) == 0
    said = capsys.readouterr().out
    for part in ("dalle, format 1", "depth 2", "4 steps, 16 samples", "image_tokenizer: dvae"):
        assert part in said
    broken = tmp_path / "broken"
    shutil.copytree(trained.vae / "step-00000004", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert main(["inspect", str(broken)]) == 2
    assert "model.safetensors" in capsys.readouterr().err
