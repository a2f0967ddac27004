"""The Python in docs/library.md runs, in order, and each use is short."""

import os
import re
from pathlib import Path

import pytest
import torch

import dalle
from tests.fakes import CAPTIONS, tiny_clip, tiny_dalle, tiny_dvae, tiny_text_tokenizer

LIBRARY = Path(__file__).parent.parent / "docs" / "library.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[int, str]]:
    """The line before each block of Python, and its code."""
    text = LIBRARY.read_text("utf-8")
    return [(text[: m.start(1)].count("\n"), m[1]) for m in BLOCK.finditer(text)]


def test_each_use_takes_less_than_ten_lines() -> None:
    assert len(blocks()) > 10
    for line, code in blocks():
        assert len([row for row in code.splitlines() if row.strip()]) < 10, f"line {line}"
        assert all(len(row) <= 100 for row in code.splitlines()), f"line {line}"


def test_the_library_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = tiny_text_tokenizer()
    dalle.Pipeline(
        tiny_dalle(text, both_orders=True),
        text_tokenizer=text,
        image_tokenizer=dalle.DvaeTokenizer(tiny_dvae()),
        reranker=dalle.ClipReranker(tiny_clip(text), text),
    ).save("runs/birds")
    pushed: list[tuple[str, str]] = []
    monkeypatch.setattr(dalle, "push", lambda folder, name: pushed.append((folder, name)))
    torch.manual_seed(0)
    names = {"batches": [(torch.rand(3, 3, 16, 24), CAPTIONS) for _ in range(2)]}
    for line, code in blocks():
        exec(compile("\n" * line + code, str(LIBRARY), "exec"), names)
    assert pushed == [("my-birds", "me/birds")]
    written = {"cube.png", "mine.png", "mine", "my-birds", "pictures", "runs"}
    assert set(os.listdir(tmp_path)) == written
    assert (tmp_path / "pictures" / "generation.json").exists()
    assert dalle.load("mine", device="cpu").generate("a red cube")[0].image.size == (24, 16)
