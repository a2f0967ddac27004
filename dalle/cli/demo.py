"""`dalle demo`: everything once, on pictures drawn on the fly."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoCommand:
    """Train a discrete VAE, a CLIP and a DALL·E on drawn shapes, generate, and judge.

    Needs no data, no network and no GPU. The same command again goes on where it stopped.
    """

    out: Path = Path("runs/demo")
    """Folder of the three runs, the pictures and the results."""
    seed: int = 0
    """Of pictures, weights and order."""
    prompts: int | None = None
    """How many prompts of each kind it is judged on; without it the recipe's number."""


def run(command: DemoCommand) -> None:
    """Run the demo."""
    from dalle.demo.run import run_demo

    run_demo(command.out, seed=command.seed, prompts=command.prompts)
