"""The real models, divided over two processes: as one process trains them."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dalle import checkpoint
from dalle.cli import main
from dalle.pictures import grid
from dalle.sampling.load import load
from tests.training.toy_group import Group
from tests.training.toy_process import curve

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

PROMPTS = ["a red circle", "a large blue star"]
ONE_BY_ONE = {"vae": "2", "dalle": "2", "clip": "1"}
"""Micro-batches of one process: the noise of two processes' is that of two micro-batches, and a
CLIP's candidates are the pairs of a micro-batch on all processes."""
AT_ONCE = ("usage", "perplexity")
"""Are of what goes through the model at the same time."""


def train(kind: str, out: Path, *more: str, strategy: str, size: int = 2) -> Path:
    """`dalle train` of the tiny preset: four updates, a look at held-out data, previews."""
    words = ["train", kind, "--preset", "tiny", "--device", "cpu", "--log-every", "1"]
    words += ["--out", str(out), *more]
    if kind == "dalle":
        words += ["--ema-decay", "0.9", "--lr", "0.01", "--guidance", "1.5"]
        words += ["--preview-prompts", *PROMPTS]
    log = out.with_name(f"{out.name}.log")
    group = Group(main, words, log=log, strategy=strategy, size=size)
    assert set(group.wait()) == {0}, group.said
    return out


def all_weights(out: Path) -> torch.Tensor:
    tensors = load_file(checkpoint.latest_whole(out) / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def painted_by_the_saved_model(out: Path) -> bytes:
    """What the last preview of a DALL·E must show: pictures of the weights saved at its step."""
    model = load(out, device="cpu")
    each = model.generate_many(PROMPTS, num_samples=4)
    codes = [p.codes for pictures in each for p in sorted(pictures, key=lambda p: p.seed)]
    return grid(model.image_tokenizer.decode(torch.stack(codes)), columns=4).tobytes()


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image tokenizer."""
    return train("vae", tmp_path_factory.mktemp("vae") / "run", strategy="single", size=1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, vae: Path) -> dict[str, Path]:
    """Each kind, trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        kind: train(
            kind,
            folder / kind,
            *("--micro-batches", ONE_BY_ONE[kind]),
            *(("--vae", str(vae)) if kind == "dalle" else ()),
            strategy="single",
            size=1,
        )
        for kind in ONE_BY_ONE
    }


@pytest.mark.parametrize("kind", ONE_BY_ONE)
@pytest.mark.parametrize("strategy", ["ddp", "zero3", "fsdp2"])
def test_losses_and_weights_are_those_of_one_process(
    tmp_path: Path, vae: Path, alone: dict[str, Path], kind: str, strategy: str
) -> None:
    more = ("--vae", str(vae)) if kind == "dalle" else ()
    out = train(kind, tmp_path / "together", *more, strategy=strategy)
    for one, other in zip(curve(out), curve(alone[kind]), strict=True):
        both = [{k: v for k, v in line.items() if k not in AT_ONCE} for line in (one, other)]
        assert both[0] == pytest.approx(both[1], rel=1e-4, abs=1e-5)
    # As one: Adam makes steps of the rounding of gradients that are 0, as that of the keys' bias.
    found, expected = all_weights(out), all_weights(alone[kind])
    assert (found - expected).norm() < 1e-3 * expected.norm()
    pictures = {path.name for path in (out / "previews").rglob("*.png")}
    assert pictures == {path.name for path in (alone[kind] / "previews").rglob("*.png")} != set()
    if kind == "dalle":
        with Image.open(out / "previews" / "step-00000004" / "samples.png") as preview:
            assert preview.tobytes() == painted_by_the_saved_model(out)
