"""Runs of `dalle train dalle --caption-order`: resumed as unbroken, many processes as one."""

import json
import shutil
from pathlib import Path

import pytest

from dalle.checkpoint.load import load_folder
from dalle.checkpoint.manifest import write_manifest
from dalle.checkpoint.steps import RUN, list_steps
from dalle.cli import main
from tests.training.compare import assert_close, assert_same
from tests.training.test_sharded_models import train

TINY = ("train", "dalle", "--preset", "tiny", "--device", "cpu", "--save-every", "2")
BOTH = ("--caption-order", "0.5")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image tokenizer."""
    out = tmp_path_factory.mktemp("vae") / "run"
    assert main(["train", "vae", "--preset", "tiny", "--device", "cpu", "--out", str(out)]) == 0
    return out


def test_a_resumed_run_ends_as_an_unbroken_one(
    tmp_path: Path, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken = tmp_path / "unbroken"
    words = [*TINY, *BOTH, "--log-every", "1", "--vae", str(vae), "--out", str(unbroken)]
    assert main(words) == 0
    out = Path(shutil.copytree(unbroken, tmp_path / "run"))
    shutil.rmtree(list_steps(out)[-1])
    assert main(["train", "dalle", "--resume", str(out)]) == 0
    assert "going on from step 2 of 4" in capsys.readouterr().err
    assert_same(out, unbroken)
    assert load_folder(out).config.both_orders
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_caption", "held_out/loss_caption_other_picture"} <= set().union(*lines)


def test_a_run_from_before_the_option_goes_on(tmp_path: Path, vae: Path) -> None:
    out = tmp_path / "run"
    assert main([*TINY, "--vae", str(vae), "--out", str(out)]) == 0
    shutil.rmtree(list_steps(out)[-1])
    [step] = list_steps(out)
    for path, place, name in (
        (step / "config.json", ("model",), "both_orders"),
        (step / RUN, ("config", "objective"), "caption_order"),
        (step / RUN, ("config", "objective"), "caption_weight"),
    ):
        fields = json.loads(path.read_text("utf-8"))
        inner = fields
        for key in place:
            inner = inner[key]
        del inner[name]
        path.write_text(json.dumps(fields), encoding="utf-8")
    write_manifest(step)
    assert not load_folder(step).config.both_orders
    assert main(["train", "dalle", "--resume", str(out)]) == 0
    assert list_steps(out)[-1].name == "step-00000004"


@pytest.mark.distributed
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "strategy",
    ["ddp", *(pytest.param(name, marks=pytest.mark.proof) for name in ("zero3", "fsdp2"))],
)
def test_two_processes_train_as_one(tmp_path: Path, vae: Path, strategy: str) -> None:
    given = ("--vae", str(vae), *BOTH)
    one = train(
        "dalle", tmp_path / "one", *given, "--micro-batches", "2", strategy="single", size=1
    )
    two = train("dalle", tmp_path / "two", *given, strategy=strategy)
    assert_close(two, one)
