"""Held-out loss after equal time: our model beside other projects', on the same tokens.

    python benchmarks/equal_time.py --preset demo --data shapes --vae FOLDER --minutes 4 \
        --out FOLDER [--peers FOLDER] [--against NAME/RECIPE ...]

Each contender trains in a process of its own on one thread, on the same batches of the same codes
and words, in depth, width and heads of the preset; whoever has used the least CPU time so far does
the next step, so that what else the machine does hits all alike. Whatever is not training
(encoding, judging) is not counted. Other projects train by the preset's optimizer and schedule
(`ours`), and by the defaults of their own scripts (`own`). The loss is in nats per image token,
given the caption.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from interleaved import ceilings, conditions
from PIL import Image, ImageDraw

from dalle.cli.picture_codes import CodeSettings, encode_once, load_image_tokenizer
from dalle.cli.training_data import open_parts, text_tokenizer
from dalle.config import to_json
from dalle.presets import DALLE_PRESETS
from dalle.protocols import Source
from dalle.training.dalle_task import DalleTask

WORKER = Path(__file__).parent / "equal_time_worker.py"
CONTENDERS = [
    ("dalle-pytorch:full", "ours"),
    ("dalle-pytorch:full", "own"),
    ("dalle-pytorch:sparse", "ours"),
    ("llamagen", "ours"),
    ("llamagen", "own"),
]
TRAINED, JUDGED, LOOKS = 20_000, 256, 12
COLOURS = ["#1a56db", "#c2410c", "#f59e0b", "#7c2d12", "#047857", "#6ee7b7"]


def main() -> None:
    """Train all, print the losses over time, and write them with a picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--data", required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--peers", type=Path)
    named = {f"{name}/{recipe}": (name, recipe) for name, recipe in CONTENDERS}
    parser.add_argument("--against", nargs="+", choices=named, default=list(named))
    parser.add_argument("--out", type=Path, required=True)
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    tokens = flags.out / "tokens.npz"
    if not tokens.exists():
        write_tokens(tokens, flags)
    wanted = [("ours", "ours"), *(named[x] for x in flags.against if flags.peers)]
    first = ceilings()
    runs = [Run(name, recipe, tokens, flags.peers) for name, recipe in wanted]
    budget = 60 * flags.minutes
    while running := [run for run in runs if run.used < budget]:
        min(running, key=lambda run: run.used).advance(budget)
    for run in runs:
        run.look()
        run.close()
    report(runs, flags, first=first, last=ceilings())


class Run:
    """One contender in its process: how long it has trained, and its losses until now."""

    def __init__(self, name: str, recipe: str, tokens: Path, peers: Path | None) -> None:
        self.name, self.recipe = name, recipe
        self.used, self.steps = 0.0, 0
        self.curve: list[tuple[float, int, float]] = []
        extra = [os.environ[key] for key in ("PEERS_PATH", "PYTHONPATH") if key in os.environ]
        # Another project is a package called dalle too; none of the two here is.
        paths = [str(Path(__file__).parents[1]), *extra]
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), name, recipe, str(tokens), str(peers)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.parameters = int(self._read().split()[1])

    def advance(self, budget: float) -> None:
        """A step, and a look where it is time for one."""
        if self.used >= budget * len(self.curve) / LOOKS:
            self.look()
        self.used += self._ask(f"step {self.used / budget}")
        self.steps += 1

    def look(self) -> None:
        """Note the held-out loss."""
        self.curve.append((self.used, self.steps, self._ask("judge")))

    def close(self) -> None:
        """End its process."""
        self._process.kill()
        self._process.wait()

    def _ask(self, line: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended")
        return line.strip()


def write_tokens(path: Path, flags: argparse.Namespace) -> None:
    """The data set as all contenders read it: words and codes, in two parts."""
    from dataclasses import replace

    run = DALLE_PRESETS[flags.preset]
    tokenizer = load_image_tokenizer(flags.vae, device="cpu")
    data = replace(run.data, data=flags.data, shapes=TRAINED, cache=str(path.parent / "cache"))
    parts = open_parts(data, tokenizer.image_size, keep_empty=False)
    words = text_tokenizer(run.text, parts.train, begun=None)
    config = run.model_config(
        text_vocab=words.vocab_size, codes=tokenizer.vocab_size, grid=tokenizer.grid
    )
    task = DalleTask(
        config,
        text_tokenizer=words,
        image_tokenizer=tokenizer,
        objective=run.objective_config(),
    )
    views, augment = run.objective.views, run.objective.augment
    encoded = encode_once(
        parts, tokenizer, CodeSettings(views=views, augment=augment, device="cpu", cache=data.cache)
    )
    assert encoded.held_out is not None
    assert not hasattr(encoded.train, "first_captions")
    text, codes = read(task, encoded.train)  # type: ignore[arg-type]
    held_out_text, held_out_codes = read(task, encoded.held_out, most=JUDGED)
    np.savez(
        path,
        text=text,
        codes=codes,
        held_out_text=held_out_text,
        held_out_codes=held_out_codes,
    )
    optim = run.optim
    settings = {
        "model": to_json(config),
        "batch": run.loop.batch_size,
        "optim": {
            "lr": optim.lr,
            "betas": optim.betas,
            "weight_decay": optim.weight_decay,
            "warmup": optim.warmup,
            "final": optim.final,
            "clip_norm": optim.clip_norm,
        },
    }
    path.with_suffix(".json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def read(task: DalleTask, source: Source, most: int = TRAINED) -> tuple[np.ndarray, np.ndarray]:
    """First captions as ids of the stream, and the codes of all views in raster order."""
    texts, codes = [], []
    for index in range(min(most, len(source))):
        sample = source[index]
        arrays = task.read(sample, Random(0), train=False)
        assert arrays is not None
        texts.append(arrays["text"])
        codes.append(sample.codes.reshape(len(sample.codes), -1))  # type: ignore[union-attr]
    return np.stack(texts).astype(np.int64), np.stack(codes).astype(np.int16)


def report(runs: list[Run], flags: argparse.Namespace, **ceilings: object) -> None:
    """A table, `equal_time.json` and `equal_time.png`."""
    ours = runs[0]
    rows: list[dict[str, Any]] = []
    for run in runs:
        two_thirds = max((at for at in ours.curve if at[0] <= run.used * 0.67), default=None)
        rows.append(
            {
                "contender": run.name,
                "recipe": run.recipe,
                "parameters": run.parameters,
                "steps": run.steps,
                "loss": run.curve[-1][2],
                "curve": run.curve,
            }
        )
        print(
            f"{run.name:22} {run.recipe:5} {run.parameters:>10,} parameters {run.steps:>6} steps "
            f"{run.curve[-1][2]:.4f} nats"
        )
    print(f"ours at two thirds of the time: {two_thirds[2]:.4f}" if two_thirds else "")
    text = json.dumps(
        {"preset": flags.preset, "minutes": flags.minutes, "rows": rows}
        | {"ceilings": ceilings, "conditions": conditions()},
        indent=1,
    )
    (flags.out / "equal_time.json").write_text(text + "\n", encoding="utf-8")
    draw(runs, 60 * flags.minutes).save(flags.out / "equal_time.png")


def draw(runs: list[Run], budget: float) -> Image.Image:
    """Losses over CPU seconds."""
    width, height, left, low, beside = 1130, 480, 70, 430, 240
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    losses = [loss for run in runs for at, _, loss in run.curve if at > budget / LOOKS / 2]
    bottom, top = min(losses), max(losses)
    margin = 0.05 * (top - bottom)
    bottom, top = bottom - margin, top + margin

    def place(seconds: float, loss: float) -> tuple[float, float]:
        across = left + (width - beside - left) * seconds / budget
        return across, low - (low - 20) * (loss - bottom) / (top - bottom)

    for i in range(6):
        loss = bottom + (top - bottom) * i / 5
        pen.line([place(0, loss), place(budget, loss)], fill="#e5e7eb")
        pen.text((8, place(0, loss)[1] - 6), f"{loss:.3f}", fill="black")
        pen.text((place(budget * i / 5, 0)[0] - 10, low + 6), f"{budget * i / 5:.0f}", fill="black")
    middle = (width - beside) // 2
    pen.text((middle - 80, low + 24), "CPU seconds of training, one thread", fill="black")
    pen.text((left, 4), "held-out nats per image token", fill="black")
    for number, (run, colour) in enumerate(zip(runs, COLOURS, strict=False)):
        points = [place(at, loss) for at, _, loss in run.curve if loss <= top]
        pen.line(points, fill=colour, width=3 if run.name == "ours" else 2)
        at = (width - beside + 16, 30 + 18 * number)
        pen.line([at[0], at[1] + 6, at[0] + 24, at[1] + 6], fill=colour, width=3)
        label = run.name if run.name == "ours" else f"{run.name}, optimizer: {run.recipe}"
        pen.text((at[0] + 32, at[1]), label, fill="black")
    return image


if __name__ == "__main__":
    main()
