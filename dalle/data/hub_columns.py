"""Which columns of a table of the `datasets` package hold the pictures and the captions."""

from collections.abc import Iterable
from typing import Any

from dalle.data.captions import Captions, clean
from dalle.data.rows import IMAGE_COLUMNS
from dalle.errors import ConfigError

CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "prompt", "prompts", "sentences")
"""Preferred, in this order, where several columns hold text."""


def columns_of(
    data: Any, place: str, image: str | None, captions: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """The column of pictures and those of captions: those asked for, or those that there are.

    Raises:
        ConfigError: there are none, or it has to be said which.
    """
    import datasets

    features = data.features or {}
    texts = [name for name, kind in features.items() if _is_text(kind)]
    decoded = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    stored = [name for name, kind in features.items() if _is_bytes(kind)]
    named = [name for name in IMAGE_COLUMNS if name in texts]
    pictures = decoded or stored or named[:1]
    texts = [name for name in texts if name not in pictures]
    listed = f"{place!r} has the columns {', '.join(features)}"
    fitting_images = [*decoded, *stored, *named]
    asked = [(image, fitting_images, "pictures")] if image is not None else []
    for name, fitting, what in [*asked, *((caption, texts, "text") for caption in captions)]:
        if name not in fitting:
            raise ConfigError(f"{listed}; {name!r} is no column of {what}")
    if image is None and len(pictures) != 1:
        raise ConfigError(
            f"{listed}; {len(pictures)} of them hold pictures. "
            + ("Say which to use" if pictures else "A data set of pictures is needed")
        )
    if not captions and len(texts) > 1:
        captions = tuple(name for name in CAPTION_COLUMNS if name in texts)[:1]
        if not captions:
            raise ConfigError(f"{listed}; several hold text: say which has the captions")
    return image or pictures[0], captions or tuple(texts)


def texts_of(values: Iterable[Any]) -> Captions | None:
    """The captions in cells: strings and lists of strings. None where all of them are empty."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    texts = [text for some in lists for text in some if isinstance(text, str)]
    return clean(dict.fromkeys(texts)) if texts else None


def _is_bytes(kind: Any) -> bool:
    """Bytes, or a struct of them and a path, as pictures are stored without a feature."""
    if isinstance(kind, dict):
        kind = kind.get("bytes")
    return getattr(kind, "dtype", None) in ("binary", "large_binary")


def _is_text(kind: Any) -> bool:
    import datasets

    if isinstance(kind, datasets.List):
        kind = kind.feature
    return isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string")
