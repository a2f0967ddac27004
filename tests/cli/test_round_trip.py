"""`dalle caption` and `dalle reconstruct`: reports, and going on after a stop."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

import dalle
from dalle.cli import main
from dalle.data.shapes import ShapesSource
from dalle.evaluation.caption_metrics import cider_d
from dalle.evaluation.chart import SIZE
from dalle.picture_files import open_image
from dalle.sampling.rerank import ClipReranker
from dalle.systems.round_trip import report
from dalle.systems.round_trip.captioner_transformers import load_captioner
from dalle.systems.round_trip.choose import choose_caption
from dalle.systems.round_trip.ours import PipelineGenerator
from dalle.systems.round_trip.similarity import similarity_of
from tests.fakes import tiny_clip, tiny_dalle, tiny_dvae, tiny_text_tokenizer
from tests.models.test_clip_transformers import save_clip
from tests.systems.round_trip.captioners import save_blip

CAPTIONS = [
    ["a small red circle", "the red circle is small"],
    ["two blue squares", "a blue square left of a blue square", "squares"],
    ["a ring", "the ring is blue"],
    ["a red square left"],
]
"""Of the stand-in for NoCaps: several of each picture."""


def with_room(small: dalle.Dalle) -> dalle.Dalle:
    """A model as untrained, of both orders, with room for captions of a BLIP."""
    torch.manual_seed(1)
    model = dalle.Dalle(replace(small.config, text_slots=90, both_orders=True))
    for head in (model.text_head, model.image_head):
        torch.nn.init.normal_(head.weight, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DALL·E of ours and its CLIP, another CLIP, and a BLIP."""
    folder = tmp_path_factory.mktemp("models")
    text = tiny_text_tokenizer()
    model = with_room(tiny_dalle(text))
    codec = dalle.DvaeTokenizer(tiny_dvae())
    own = ClipReranker(tiny_clip(text), text)
    for name, reranker in (("dalle", own), ("plain", None)):
        dalle.Pipeline(model, text_tokenizer=text, image_tokenizer=codec, reranker=reranker).save(
            folder / name
        )
    (folder / "clip").mkdir()
    save_clip(folder / "clip")
    save_blip(folder / "blip")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "given.png"
    noise = np.random.default_rng(3).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def nocaps(tmp_path: Path) -> Path:
    """Pictures and captions laid out as those of NoCaps and COCO."""
    folder = tmp_path / "nocaps"
    (folder / "images").mkdir(parents=True)
    source = ShapesSource(len(CAPTIONS), size=32)
    for number in range(len(CAPTIONS)):
        source[number].image.save(folder / "images" / f"{number}.png")
    images = [{"id": i, "file_name": f"{i}.png", "domain": "out"} for i in range(len(CAPTIONS))]
    notes = [
        {"id": 100 * i + j, "image_id": i, "caption": text}
        for i, texts in enumerate(CAPTIONS)
        for j, text in enumerate(texts)
    ]
    path = folder / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    return path


def trip(models: Path, *more: str) -> list[str]:
    flags = ["--captioner", str(models / "blip"), "--device", "cpu", "--seed", "5"]
    return ["--model", str(models / "dalle"), *flags, *more]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_caption_is_chosen_and_all_of_it_reported(
    models: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    command = ["reconstruct", "image", str(picture), "--out", str(out)]
    more = ["--candidates", "4", "--per-candidate", "2"]
    assert main([*command, *trip(models, *more)]) == 0
    record = read(out / report.RECORD)
    candidates = record["candidates"]
    assert sum(c["times"] for c in candidates) == 4
    scores = [c["score"] for c in candidates]
    assert record["chosen"] == int(np.argmax(scores)) == record["ranking"][0]
    assert [scores[i] for i in record["ranking"]] == sorted(scores, reverse=True)
    assert record["settings"]["seed"] == 5 and record["settings"]["captioner"].endswith("blip")
    # The scores are those of the files that lie beside them.
    model = dalle.load(models / "dalle", device="cpu")
    assert model.reranker is not None
    similarity = similarity_of(model.reranker, space="projected")
    original = open_image(out / report.ORIGINAL)
    for one in candidates:
        files = [open_image(out / name) for name in one["pictures"]]
        assert len(files) == 2
        assert similarity.images(original, files).tolist() == pytest.approx(
            one["similarities"], abs=1e-6
        )
    # And the whole is what the library gives.
    choice = choose_caption(
        open_image(picture),
        captioner=load_captioner(models / "blip"),
        generator=PipelineGenerator(model),
        similarity=similarity,
        num_candidates=4,
        num_pictures=2,
        seed=5,
    )
    assert [c.text for c in choice.candidates] == [c["caption"] for c in candidates]
    assert choice.best.score == pytest.approx(max(scores), abs=1e-6)
    sheet = open_image(out / report.SHEET)
    assert sheet.height > 100 * (1 + len(candidates))
    said = capsys.readouterr().out
    assert said.splitlines()[0].endswith(candidates[record["chosen"]]["caption"])
    assert main([*command, *trip(models, *more)]) == 5
    assert f"{out} exists; give another --out" in capsys.readouterr().err


def test_a_picture_is_chosen_and_all_of_it_reported(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    more = ["--candidates", "3", "--per-candidate", "2", "--clip", str(models / "clip")]
    command = ["reconstruct", "text", "a red circle", "--out", str(out), "--space", "pooler"]
    assert main([*command, *trip(models, *more)]) == 0
    record = read(out / report.RECORD)
    assert record["text"] == "a red circle"
    assert [c["seed"] for c in record["candidates"]] == [5, 6, 7]
    captioner = load_captioner(models / "blip")
    for one in record["candidates"]:
        image = open_image(out / one["picture"])
        assert captioner.caption([image], num_captions=2, seed=5) == [one["captions"]]
    assert (out / report.SHEET).exists()


def test_a_report_that_cannot_be_finished_is_not_begun(
    models: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_json", full)
    command = ["reconstruct", "image", str(picture), "--out", str(tmp_path / "report")]
    assert main([*command, *trip(models, "--candidates", "1")]) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "plain"], "is no CLIP to compare with|has no CLIP to compare with"),
        (["--model", "dalle", "--space", "pooler"], "the space pooler is that of CLIPs of trans"),
        (["--model", "dalle", "--candidates", "0"], "num_candidates is 0"),
        (["--model", "dalle", "--top-p", "7"], "top_p"),
        (["--model", "dalle", "--caption-top-p", "7"], "top_p of a captioner is 7"),
    ],
)
def test_what_cannot_work_is_a_sentence(
    models: Path,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    flag, name, *rest = arguments
    command = ["reconstruct", "image", str(picture), "--out", str(tmp_path / "report")]
    common = ["--captioner", str(models / "blip"), "--device", "cpu"]
    assert main([*command, flag, str(models / name), *rest, *common]) == 2
    error = capsys.readouterr().err
    assert any(part in error for part in said.split("|")) and "Traceback" not in error
    assert not (tmp_path / "report").exists()


def test_captions_are_printed_with_their_scores(
    models: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["caption", str(picture), str(picture), "--captioner", str(models / "blip")]
    flags = ["--device", "cpu", "--num-captions", "5"]
    assert main([*command, *flags, "--clip", str(models / "clip")]) == 0
    lines = capsys.readouterr().out.splitlines()
    half = len(lines) // 2
    assert lines[0] == str(picture) and lines[:half] == lines[half:]
    scores = [float(line.split()[0]) for line in lines[1:half]]
    assert scores == sorted(scores, reverse=True) and len(scores) > 1
    assert main([*command[:2], *command[3:], *flags]) == 0
    plain = capsys.readouterr().out.splitlines()
    assert sorted(line.strip() for line in plain[1:]) == sorted(
        line.split(maxsplit=1)[1] for line in lines[1:half]
    )
    assert main(["caption", str(picture)]) == 2
    assert "nothing is there to write captions" in capsys.readouterr().err


# What an untrained model writes, bytes of no language, is longer when it is read again.
@pytest.mark.filterwarnings("ignore::dalle.sampling.streams.PromptCutWarning")
def test_a_model_of_both_orders_writes_and_weighs_by_itself(
    models: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    own = ["--model", str(models / "dalle"), "--device", "cpu", "--seed", "4"]
    flags = ["--by", "log_prob", "--candidates", "3", "--out", str(out)]
    assert main(["reconstruct", "image", str(picture), *own, *flags]) == 0
    record = read(out / report.RECORD)
    model = dalle.load(models / "dalle", device="cpu")
    captions = [one["caption"] for one in record["candidates"]]
    assert captions == model.caption(picture, num_samples=3, seed=4, top_p=0.9)
    found = {one.caption: one.log_prob for one in model.log_likelihoods(picture, captions)}
    assert [one["score"] for one in record["candidates"]] == pytest.approx(
        [found[caption] for caption in captions], rel=1e-6
    )
    assert record["chosen"] == int(np.argmax([found[caption] for caption in captions]))
    assert all(one["pictures"] == [] for one in record["candidates"])
    assert open_image(out / report.SHEET).height > 200
    capsys.readouterr()
    assert main(["caption", str(picture), *own, "--num-captions", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert float(lines[1].split()[0]) == pytest.approx(max(found.values()), abs=1e-3)
    assert main(["caption", str(picture), *own, "--prefix", "a"]) == 2
    assert "--prefix is for a --captioner" in capsys.readouterr().err


def evaluate(models: Path, data: Path, out: Path, *more: str) -> list[str]:
    command = ["reconstruct", "evaluate", str(data), "--out", str(out), "--candidates", "3"]
    return [*command, "--judge", str(models / "clip"), *trip(models), *more]


@pytest.mark.parametrize("task", ["image", "text"])
def test_a_captioned_set_is_judged_by_rank_and_goes_on_after_a_stop(
    models: Path,
    nocaps: Path,
    tmp_path: Path,
    task: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(evaluate(models, nocaps, whole, "--task", task)) == 0
    table = capsys.readouterr().out
    with monkeypatch.context() as patch:
        calls = iter(range(100))
        original = PipelineGenerator.generate

        def stopped(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return original(self, *arguments, **keywords)

        patch.setattr(PipelineGenerator, "generate", stopped)
        assert main(evaluate(models, nocaps, broken, "--task", task)) == 130
    lines = (broken / "trips.jsonl").read_text().splitlines()
    assert len(lines) == 2 and not (broken / "results.json").exists()
    # A kill in the middle of a line leaves half of it.
    (broken / "trips.jsonl").write_text("\n".join([lines[0], lines[1][:40]]))
    capsys.readouterr()
    assert main(evaluate(models, nocaps, broken, "--task", task)) == 0
    said = capsys.readouterr().out
    assert "1 of 4 samples are through, 3 are left" in said
    assert read(broken / "results.json") == read(whole / "results.json")
    assert table.split("\n\n")[1] in said
    assert main(evaluate(models, nocaps, broken, "--task", task)) == 0  # nothing is left to do
    assert "4 of 4 samples are through" in capsys.readouterr().out
    assert main(evaluate(models, nocaps, broken, "--task", task, "--top-k", "3")) == 2
    assert "an evaluation with top_k None, and top_k is now 3" in capsys.readouterr().err


def test_every_reference_counts_and_ranks_are_by_similarity(
    models: Path, nocaps: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(evaluate(models, nocaps, out)) == 0
    rows = [json.loads(line) for line in (out / "trips.jsonl").read_text().splitlines()]
    assert [row["references"] for row in rows] == CAPTIONS
    first = []
    for row in rows:
        best = max(row["candidates"], key=lambda one: one["similarities"][0])
        first.append(best["captions"][0])
    results = read(out / "results.json")
    assert set(results) == {"CIDEr-D", "ROUGE-L", "judge"}
    expected = np.mean(cider_d(first, CAPTIONS))
    assert results["CIDEr-D"]["by_rank"][0]["value"] == pytest.approx(expected)
    assert len(results["CIDEr-D"]["by_rank"]) == 3
    with Image.open(out / "by-rank.png") as curves:
        assert curves.width == 3 * SIZE[0]


def test_damaged_pictures_are_left_out_and_counted(
    models: Path, nocaps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nocaps.parent / "images" / "2.png").write_bytes(b"no picture")
    assert main(evaluate(models, nocaps, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "1 samples cannot be read" in said and "3 samples of 3 candidates" in said


def test_what_an_evaluation_needs_is_said(
    models: Path, nocaps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reconstruct", "evaluate", str(nocaps), "--out", str(tmp_path / "out")]
    for more, said in (
        (["--task", "text"], "judged by a CLIP that did not choose them; give --judge"),
        (["--most", "1"], "most is 1; expected at least 2 samples"),
    ):
        assert main([*command, *trip(models), *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    shutil.rmtree(nocaps.parent / "images")
    assert main([*command, *trip(models)]) == 8
