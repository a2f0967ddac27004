"""Who gives local paths connects to nobody, although nothing says that the machine is offline."""

import os
import subprocess
import sys
from pathlib import Path

from tests.models.test_clip_transformers import save_clip

COMMANDS = """
import os, sys

tried = []

def watch(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        tried.append((event, args))
        raise OSError("no network")
    if event == "socket.connect" and not isinstance(args[1], (str, bytes)):  # a path is no network
        tried.append((event, args[1]))
        raise OSError("no network")

sys.addaudithook(watch)
from dalle.cli import main

root, clip = sys.argv[1:]
tiny = ["--preset", "tiny", "--device", "cpu"]
for words in (
    ["train", "vae", *tiny, "--out", f"{root}/vae"],
    ["train", "dalle", *tiny, "--vae", f"{root}/vae", "--clip", clip, "--out", f"{root}/dalle"],
    ["generate", "--model", f"{root}/dalle", "--device", "cpu", "--out", f"{root}/out", "a circle"],
    ["inspect", f"{root}/dalle"],
    ["presets"],
    ["launch-config", "zero2"],
):
    assert main(words) == 0, words
from dalle.data.sources import open_source
from datasets import Dataset, Features, Image, Value
kinds = Features({"image": Image(), "text": Value("string")})
row = {"image": [{"bytes": b"x", "path": None}], "text": ["a"]}
os.mkdir(f"{root}/table")
Dataset.from_dict(row, features=kinds).to_parquet(f"{root}/table/a.parquet")
assert len(open_source(f"{root}/table")) == 1
assert tried == [], tried
assert main(["inspect", "somebody/model"]) == 2  # a name was given: now it is asked for
assert tried
"""


def test_local_paths_ask_nobody(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    save_clip(clip)
    settings = ("HF_", "WANDB", "DO_NOT_TRACK")
    environment = {n: value for n, value in os.environ.items() if not n.startswith(settings)}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tmp_path), str(clip)],
        env={**environment, "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
