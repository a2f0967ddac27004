"""One picture sampled slot by slot and ahead, in turns: the same codes, in fewer steps.

    python benchmarks/ahead.py MODEL PROMPT... [--samples N ...] [--guidance G ...] [--rounds R]
                               [--json FILE]

MODEL is a model folder or a run. How many tokens a step settles depends on how sure the model is of
what it draws, so that only a trained one says anything. Each round draws every prompt with another
seed, `--samples` pictures at once; times are CPU seconds of sampling and decoding them all. A
difference between the two ways ends it.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from interleaved import conditions, median_ratio, report

from dalle.sampling import ahead, fixed_step
from dalle.sampling.ahead import AheadSteps
from dalle.sampling.load import load
from dalle.sampling.pipeline import Pipeline


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--samples", type=int, nargs="+", default=[1])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    model = load(flags.model, device="cpu", dtype="float32")
    rows: list[dict[str, object]] = []
    for samples in flags.samples:
        for guidance in flags.guidance:
            rows.append(compare(model, flags.prompts, samples, guidance, flags.rounds))
    report(rows, flags.json, **conditions())


def compare(
    model: Pipeline, prompts: list[str], samples: int, guidance: float, rounds: int
) -> dict[str, object]:
    """The row of one number of samples and one guidance."""
    counted = Counted()
    by_slot, by_guess = [], []
    for seed in range(rounds):
        expected, seconds = drawn(model, prompts, samples, guidance, seed, guessing=False)
        by_slot.append(seconds)
        with counted:
            found, seconds = drawn(model, prompts, samples, guidance, seed, guessing=True)
        by_guess.append(seconds)
        if not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)):
            raise SystemExit(f"other codes with seed {seed}")
    return {
        "samples": samples,
        "guidance": guidance,
        "by_slot_s": statistics.median(by_slot),
        "ahead_s": statistics.median(by_guess),
        "ratio": median_ratio(by_slot, by_guess),
        "tokens_a_step": counted.slots / max(1, counted.steps),
    }


def drawn(
    model: Pipeline,
    prompts: list[str],
    samples: int,
    guidance: float,
    seed: int,
    *,
    guessing: bool,
) -> tuple[list[torch.Tensor], float]:
    """The codes of all pictures, and CPU seconds."""
    fixed_step.pays = ahead.pays if guessing else lambda model, rows: False
    began = time.process_time()
    codes = [
        torch.as_tensor(picture.codes)
        for prompt in prompts
        for picture in model.generate(
            prompt, num_samples=samples, guidance=guidance, seed=seed, rank_by="log_prob"
        )
    ]
    return codes, time.process_time() - began


class Counted:
    """While entered, counts steps and the slots that they settle."""

    def __init__(self) -> None:
        self.steps = self.slots = 0
        self._play = AheadSteps.play

    def __enter__(self) -> None:
        def play(steps: AheadSteps) -> int:
            settled = self._play(steps)
            self.steps += 1
            self.slots += settled
            return settled

        AheadSteps.play = play  # type: ignore[assignment, method-assign]

    def __exit__(self, *_: object) -> None:
        AheadSteps.play = self._play  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
