"""A whole evaluation on small stand-ins: its numbers, going on after a stop, what is refused."""

import dataclasses
import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import dalle
from dalle.checkpoint import save_model_folder
from dalle.cli import main
from dalle.errors import ConfigError
from dalle.evaluation import samples
from dalle.evaluation.generated import Judges
from dalle.evaluation.inception_v3 import InceptionV3
from dalle.evaluation.networks import clip_network, load_encoders
from dalle.evaluation.protocol import Protocol
from dalle.evaluation.report import Report, read_report, write_report
from dalle.evaluation.run import check_judges
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.rerank import ClipReranker
from dalle.tokenizers.image import DvaeTokenizer
from tests.fakes import CAPTIONS, tiny_clip, tiny_dalle, tiny_dvae, tiny_text_tokenizer

NUM = 24
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A model with its CLIP, another CLIP, and captioned pictures in two folders."""
    home = tmp_path_factory.mktemp("home")
    tokenizer = tiny_text_tokenizer()
    for name, seed in (("model", 0), ("other", 5)):
        Pipeline(
            tiny_dalle(tokenizer, seed=seed),
            text_tokenizer=tokenizer,
            image_tokenizer=DvaeTokenizer(tiny_dvae()),
            reranker=ClipReranker(tiny_clip(tokenizer), tokenizer),
        ).save(home / name)
    judge = tiny_clip(tokenizer, seed=1)
    save_model_folder(
        home / "judge", kind="clip", config=judge.config, module=judge, text_tokenizer=tokenizer
    )
    dice = random.Random(0)
    for i in range(NUM):
        folder = home / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = bytes(dice.randrange(256) for _ in range(20 * 18 * 3))
        Image.frombytes("RGB", (18, 20), pixels).save(folder / f"{i}.png")
        lines = (f"{CAPTIONS[i % 3]} {i}", f"a second one {i}")
        (folder / f"{i}.txt").write_text("\n".join(lines), encoding="utf-8")
    return home


def evaluate(home: Path, out: Path | str, *more: str, model: str = "model") -> int:
    command = ["evaluate", "--model", str(home / model), "--data", str(home / "data")]
    return main([*command, "--device", "cpu", "--out", str(home / out), *more])


@pytest.fixture(scope="module")
def ranked(home) -> Report:
    assert evaluate(home, "ranked", "--samples", "5", "--judge", str(home / "judge")) == 0
    return read_report(home / "ranked")


def section(report: Report, name: str) -> dict[str, float]:
    return {row.name: row.value for row in report.rows if row.section == name}


def test_every_part_has_its_numbers_and_controls(ranked):
    names = {row.section for row in ranked.rows}
    assert names == {
        "likelihood, nats per token",
        "reconstruction",
        "real pictures",
        "generated pictures",
        "best of N",
    }
    assert {row.count for row in ranked.rows} == {NUM, NUM // 2}
    assert all(math.isfinite(row.value) for row in ranked.rows)
    made = section(ranked, "generated pictures")
    assert len({made[f"FID, blur {r}"] for r in (0, 1, 2, 4, 8)}) == 5
    assert made["top-1, chance"] == pytest.approx(1 / NUM)
    best = section(ranked, "best of N")
    assert [n for n in best if n.startswith("FID")] == [f"FID, best of {n}" for n in (1, 2, 4, 5)]
    assert best["FID, best of 5"] == made["FID, blur 0"]
    assert best["cosine, best of 5"] == made["cosine of caption and picture (CapS)"]
    assert ranked.conditions.protocol.name == "own"
    assert {row.by for row in ranked.rows if "FID" in row.name} == {
        row.by for row in ranked.rows if "cosine" in row.name
    }


def test_the_pictures_kept_are_the_best_of_the_first(home, ranked):
    drawn = samples.read_drawn(home / "ranked")
    assert len(drawn) == NUM
    for one in drawn:
        assert len(one.scores) == 5
        for n, best in zip((1, 2, 4, 5), one.best, strict=True):
            assert one.scores[best] == max(s for s in one.scores[:n] if s is not None)
    kept = sum(len(set(one.best)) for one in drawn)
    assert len(list((home / "ranked" / "samples").glob("*.png"))) == kept
    for name in ("samples.png", "fid-blur.png", "best-of-fid.png", "best-of-cosine.png"):
        with Image.open(home / "ranked" / name) as image:
            assert min(image.size) > 100


def test_what_was_stopped_goes_on_to_the_same_numbers(home, ranked, monkeypatch):
    out = home / "stopped"
    keep, calls = samples._keep, []

    def stops(*args, **kwargs):
        if len(calls) == 7:
            raise KeyboardInterrupt
        calls.append(args)
        keep(*args, **kwargs)

    more = ("--samples", "5", "--judge", str(home / "judge"))
    with monkeypatch.context() as patch:
        patch.setattr(samples, "_keep", stops)
        assert evaluate(home, out, *more) == 130
    lines = out / "samples" / "samples.jsonl"
    assert len(samples.read_drawn(out)) == 7
    with open(lines, "a", encoding="utf-8") as file:
        file.write('{"scores": [0.1, ')  # a line that a power cut left
    assert evaluate(home, out, *more) == 0
    again = read_report(out)
    assert again.rows == ranked.rows
    first = home / "ranked" / "samples"
    assert lines.read_bytes() == (first / lines.name).read_bytes()
    for path in first.glob("*.png"):
        assert path.read_bytes() == (out / "samples" / path.name).read_bytes()


def test_features_on_the_disk_are_used_and_damaged_ones_made_again(home, ranked):
    out = home / "ranked"
    files = sorted((out / "features").rglob("*.safetensors"))
    files[0].write_bytes(b"damaged")
    stamps = {path: path.stat().st_mtime_ns for path in files}
    assert evaluate(home, out, "--samples", "5", "--judge", str(home / "judge")) == 0
    changed = [path for path in files if path.stat().st_mtime_ns != stamps[path]]
    assert changed == files[:1]
    assert read_report(out).rows == ranked.rows


def test_a_folder_of_another_evaluation_is_refused(home, ranked, capsys):
    assert evaluate(home, "ranked", "--samples", "4", "--judge", str(home / "judge")) == 2
    assert "holds another evaluation" in capsys.readouterr().err
    again = ("--samples", "5", "--judge", str(home / "judge"))
    assert evaluate(home, "ranked", *again, "--temperature", "0.5") == 2
    assert evaluate(home, "ranked", *again, model="other") == 2


def test_the_clip_that_ranks_may_not_judge(home, capsys):
    own = str(home / "model" / "reranker")
    assert evaluate(home, "same", "--samples", "2", "--judge", own) == 2
    assert "is the one that chooses among 2 pictures" in capsys.readouterr().err
    assert evaluate(home, "same", "--samples", "2") == 2
    assert "there is nothing to judge pictures by" in capsys.readouterr().err
    # A copy under another name is the same, and where nothing is ranked it may.
    shutil.copytree(own, home / "copy")
    assert evaluate(home, "same", "--samples", "2", "--judge", str(home / "copy")) == 2
    assert evaluate(home, "single", "--captions", "12", "--parts", "real") == 0


def test_the_clip_that_conditions_may_not_judge(home):
    class VectorTokenizer:
        def __init__(self, embedder: ClipReranker) -> None:
            self.embedder = embedder

    pipeline = dalle.load(home / "model", device="cpu")
    clips = [load_encoders(home / name, CPU) for name in ("judge", "judge", "model/reranker")]
    judges = Judges(network=None, clip=clip_network(clips[0], "judge"), encoders=clips[0])
    check_judges(pipeline, Protocol(), judges)
    pipeline.text_tokenizer = VectorTokenizer(clips[1])
    with pytest.raises(ConfigError, match="turns the captions into the model's condition"):
        check_judges(pipeline, Protocol(), judges)
    pipeline.text_tokenizer = VectorTokenizer(clips[2])
    check_judges(pipeline, Protocol(samples=1), judges)


def test_likelihood_and_reconstruction_need_no_judge(home):
    parts = ("--parts", "likelihood", "reconstruction", "--samples", "3")
    assert evaluate(home, "plain", *parts) == 0
    report = read_report(home / "plain")
    assert {row.section for row in report.rows} == {
        "likelihood, nats per token",
        "reconstruction",
    }
    assert not (home / "plain" / "samples").exists()


def test_two_evaluations_side_by_side(home, ranked, capsys):
    more = ("--samples", "5", "--judge", str(home / "judge"))
    assert evaluate(home, "second", *more, model="other") == 0
    capsys.readouterr()
    assert main(["evaluate", "--compare", str(home / "ranked"), str(home / "second")]) == 0
    said = capsys.readouterr().out
    a, b = (read_report(home / name) for name in ("ranked", "second"))
    name = "image"
    change = b.value("likelihood, nats per token", name) - a.value(
        "likelihood, nats per token", name
    )
    [line] = [line for line in said.splitlines() if line.startswith("  image  ")]
    assert f"{change:.4g}" in line
    assert ("B" if change < 0 else "A") + " is better" in line


def test_what_cannot_be_compared_is_refused_or_marked(home, ranked, tmp_path, capsys):
    def written(name: str, report: Report) -> str:
        write_report(report, tmp_path / name)
        return str(tmp_path / name)

    fewer = dataclasses.replace(ranked.conditions, num_captions=7)
    other = written("fewer.json", dataclasses.replace(ranked, conditions=fewer))
    assert main(["evaluate", "--compare", str(home / "ranked"), other]) == 2
    assert "num_captions 24 against 7" in capsys.readouterr().err
    rows = tuple(
        dataclasses.replace(row, by="another network") if row.name == "FID, blur 0" else row
        for row in ranked.rows
    )
    other = written("network.json", dataclasses.replace(ranked, rows=rows))
    assert main(["evaluate", "--compare", str(home / "ranked"), other]) == 0
    lines = capsys.readouterr().out.splitlines()
    [fid] = [line for line in lines if "FID, blur 0" in line]
    assert "not comparable, other bases" in fid
    [kid] = [line for line in lines if line.startswith("  KID  ")]
    assert "not comparable" not in kid
    assert main(["evaluate", "--compare", str(tmp_path), other]) == 2
    assert "there is no report" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("{}")
    assert main(["evaluate", "--compare", str(tmp_path / "broken.json"), other]) == 2
    assert "is no report" in capsys.readouterr().err


def test_the_report_says_what_was_done(home, ranked):
    value = json.loads((home / "ranked" / "report.json").read_text())
    assert value["conditions"]["protocol"]["blur"] == [0, 1, 2, 4, 8]
    assert value["judged"]["sampling"] == "temperature 1.0, guidance 1.0"
    assert value["judged"]["ranker"].startswith("CLIP ")
    assert len(value["judged"]["model_hash"]) == 64
    assert value["source"] == str(home / "data")


def test_the_published_protocol_runs_on_captions_of_coco(home, capsys):
    folder = home / "coco"
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    pictures, notes = [], []
    for i in range(4):
        shutil.copy(home / "data" / "ab"[i % 2] / f"{i}.png", folder / "val2017" / f"{i}.png")
        pictures.append({"id": i, "file_name": f"{i}.png"})
        notes += [{"image_id": i, "caption": f"{CAPTIONS[i % 3]}, said {k}"} for k in range(3)]
    file = folder / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps({"images": pictures, "annotations": notes}))
    command = ["evaluate", "--model", str(home / "model"), "--data", str(file), "--device", "cpu"]
    command += ["--protocol", "coco", "--judge", str(home / "judge"), "--out", str(home / "out")]
    assert main(command) == 2
    assert "12 captions were found; expected 30000" in capsys.readouterr().err
    command += ["--parts", "generation", "--captions", "10", "--samples", "4"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "protocol own: 10 captions of 4 pictures of 16 x 12, 4 drawn for each, the best" in said
    assert "FID, best of 4" in said


def test_an_inception_network_brings_its_score(home, tmp_path):
    torch.manual_seed(0)
    torch.save(InceptionV3().state_dict(), tmp_path / "inception.pth")
    more = ("--inception", str(tmp_path / "inception.pth"), "--parts", "real", "--captions", "10")
    assert evaluate(home, "inception", *more) == 0
    report = read_report(home / "inception")
    [row] = [row for row in report.rows if row.name.startswith("Inception score")]
    assert row.by.startswith("Inception v3 of FIDs (")
    assert (row.count, row.better) == (10, "")
    assert row.value == pytest.approx(1)  # each of the ten parts is one picture
