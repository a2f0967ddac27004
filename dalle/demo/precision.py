"""In which numbers the demo trains: what this machine is fast in, settled once for a folder."""

import time
from pathlib import Path

import torch

from dalle.errors import InputError, SaveError
from dalle.training.settings import Precision

PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")


def settled_precision(out: Path) -> Precision:
    """What the first run of a folder chose: a later one goes on with it, whatever it measures.

    Raises:
        InputError: what is written there is none of them.
        SaveError: the choice cannot be written.
    """
    settled = out / "precision.txt"
    if settled.is_file():
        text = settled.read_text(encoding="utf-8").strip()
        for precision in PRECISIONS:
            if text == precision:
                return precision
        raise InputError(f"{settled} says {text!r}; expected one of {', '.join(PRECISIONS)}")
    chosen = choose_precision()
    try:
        out.mkdir(parents=True, exist_ok=True)
        settled.write_text(f"{chosen}\n", encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{settled} cannot be written: {error.strerror}") from None
    return chosen


def choose_precision() -> Precision:
    """bfloat16 where this CPU multiplies in it at least 1.5 times as fast, else float32."""
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype)
        rounds = []
        for _ in range(10):
            began = time.perf_counter()
            a @ a
            rounds.append(time.perf_counter() - began)
        times[dtype] = min(rounds)
    return "bfloat16" if times[torch.bfloat16] * 1.5 < times[torch.float32] else "float32"
