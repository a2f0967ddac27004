"""The card of a local data set of the `datasets` package: it may name only what lies beside it."""

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

CARDS = ("README.md", ".huggingface.yaml")


def check_card(folder: Path) -> None:
    """Refuse a local folder whose card has `datasets` read elsewhere, or fetch."""
    from huggingface_hub import DatasetCard

    texts = [_read_card(folder / name) for name in CARDS if (folder / name).is_file()]
    for text in texts:
        card = DatasetCard(text, ignore_metadata_errors=False).data.to_dict()
        for name in _files_named(card.get("configs")):
            path = PureWindowsPath(name)
            if path.anchor or ".." in path.parts or ":" in name:
                raise ValueError(f"its card names {name!r}, which is not inside the folder")


def _read_card(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return text if path.name == CARDS[0] else f"---\n{text}\n---\n"


def _files_named(value: Any, key: str = "") -> Iterator[str]:
    """The paths and patterns in the configurations of a card."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _files_named(item, inner if key != "data_files" else key)
    elif isinstance(value, list):
        for item in value:
            yield from _files_named(item, key)
    elif isinstance(value, str) and key in ("data_files", "data_dir"):
        yield value
