"""On one GPU: what divides the work over many computes as plain training does there."""

from pathlib import Path

import pytest

from dalle.cli import main
from tests.training.toy_group import Group
from tests.training.toy_process import curve

pytestmark = [pytest.mark.gpu, pytest.mark.distributed, pytest.mark.timeout(600)]

DEVICE = "cuda"
BF16_ERROR = 2.0**-8


def train(out: Path, *more: str, kind: str, strategy: str) -> Path:
    """`dalle train` of the tiny preset in bfloat16, by one process."""
    words = ["train", kind, "--preset", "tiny", "--device", DEVICE, "--precision", "bfloat16"]
    words += ["--log-every", "1", "--out", str(out), *more]
    log = out.with_name(f"{out.name}.log")
    group = Group(main, words, log=log, strategy=strategy, size=1)
    assert group.wait() == [0], group.said
    assert f"{DEVICE}, {strategy}, bfloat16" in group.said
    return out


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image tokenizer."""
    return train(tmp_path_factory.mktemp("vae") / "run", kind="vae", strategy="single")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, vae: Path) -> Path:
    """Plain training."""
    out = tmp_path_factory.mktemp("plain") / "run"
    return train(out, "--vae", str(vae), kind="dalle", strategy="single")


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp2"])
def test_losses_in_bfloat16_are_those_of_plain_training(
    tmp_path: Path, vae: Path, plain: Path, strategy: str
) -> None:
    out = train(tmp_path / "run", "--vae", str(vae), kind="dalle", strategy=strategy)
    for one, other in zip(curve(out), curve(plain), strict=True):
        assert one == pytest.approx(other, rel=BF16_ERROR, abs=BF16_ERROR)
