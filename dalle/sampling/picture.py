"""A generated picture, what made it, and the PNG file that carries all of this with it."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Int
from PIL import Image, PngImagePlugin
from torch import Tensor

from dalle.config import from_json, to_json
from dalle.errors import ConfigError, InputError, SaveError
from dalle.sampling.filters import Sampling

SOFTWARE = "dalle"

ScoreKind = Literal["clip", "log_prob"]
"""The reranker's score, or the model's own ln p(picture | text)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What a picture was made with, apart from its prompt and its seed."""

    model: str = ""
    """The folder or hub name as it was given; empty for a model that was never on a disk."""
    model_hash: str = ""
    """SHA-256 of the model folder's MANIFEST.json, which lists the hash of every file."""
    weights: str = ""
    """ "model" or "ema"."""
    reranker: str = ""
    """Folder or hub name; empty without one."""
    dtype: str
    device: str
    sampling: Sampling
    rect: tuple[int, int] | None = None
    """First row and column that were drawn anew in a given picture; None without one."""
    num_samples: int
    """How many pictures it was chosen from."""
    launch: int
    """How many pictures were sampled at once."""
    versions: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where the parts of a pipeline come from; the first four as in `Made`."""

    model: str = ""
    model_hash: str = ""
    weights: str = ""
    reranker: str = ""
    reranker_folder: Path | None = None
    """Where the reranker was read, unless it came from the hub."""
    source: Mapping[str, Any] | None = None
    """Of a converted model: family, version, licence and hashes of the original."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRecord:
    """Everything of a picture but its pixels: enough to make it again."""

    prompt: str
    seed: int
    score: float
    score_kind: ScoreKind
    log_prob: float
    num_cut: int
    vector: tuple[float, ...] | None = None
    made: Made
    codes: tuple[tuple[int, ...], ...]

    def to_fields(self) -> dict[str, Any]:
        """As JSON values, one flat object."""
        values = {f.name: to_json(getattr(self, f.name)) for f in fields(self)}
        codes, made = values.pop("codes"), values.pop("made")
        return {**values, **made, "codes": codes}

    @classmethod
    def from_fields(cls, values: dict[str, Any], *, path: str) -> "PictureRecord":
        """The inverse of `to_fields`, strict; `path` is how errors call the place."""
        inner = {f.name for f in fields(Made)}
        made = {name: value for name, value in values.items() if name in inner}
        rest = {name: value for name, value in values.items() if name not in inner}
        return from_json(cls, {**rest, "made": made}, path=path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One generated picture."""

    image: Image.Image
    """RGB."""
    prompt: str
    """As it was given, with U+FFFD for what UTF-8 cannot carry."""
    seed: int
    """Alone, or among any others, this seed gives this picture."""
    score: float
    """What it was ranked by; higher is better."""
    score_kind: ScoreKind
    log_prob: float
    """ln p(sampled codes | text) in nats, at temperature 1, unfiltered and unguided."""
    codes: Int[Tensor, "rows cols"]
    """The picture as codes of the image tokenizer."""
    num_cut: int
    """Tokens at the end of the prompt for which the model has no room."""
    vector: tuple[float, ...] | None = None
    """The condition where it came as a vector, which the prompt then only describes."""
    made: Made

    def record(self) -> PictureRecord:
        """All but the pixels."""
        return PictureRecord(
            prompt=self.prompt,
            seed=self.seed,
            score=self.score,
            score_kind=self.score_kind,
            log_prob=self.log_prob,
            num_cut=self.num_cut,
            vector=self.vector,
            made=self.made,
            codes=tuple(tuple(row) for row in self.codes.tolist()),
        )

    def save(self, path: str | Path) -> Path:
        """Write a PNG that carries prompt, seed, score, model and settings as text.

        Raises:
            SaveError: it cannot be written, or a file of that name exists.
        """
        path = Path(path)
        try:
            create(path, png_bytes(self.image, self.record()))
        except FileExistsError:
            raise SaveError(f"{path} exists; give another name or remove it") from None
        return path


def png_bytes(image: Image.Image, record: PictureRecord) -> bytes:
    """The PNG file of a picture with its record, each field a text chunk of full Unicode."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("Software", SOFTWARE)
    for name, value in record.to_fields().items():
        if value is not None:
            text.add_itxt(name, value if isinstance(value, str) else json.dumps(value))
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def read_metadata(path: str | Path) -> PictureRecord:
    """What a PNG file written by `Picture.save` says of its picture.

    Raises:
        InputError: it cannot be read, or has no such text.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=("PNG",)) as image:
            # Our text stands before the pixels, which are not decoded for it.
            text = {str(n): str(v) for n, v in image.info.items() if isinstance(v, str)}
    except FileNotFoundError:
        raise InputError(f"there is no picture {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is damaged or not a PNG file: {error}") from None
    if text.pop("Software", None) != SOFTWARE:
        raise InputError(f"{path} does not say how it was made; expected a PNG written by dalle")
    try:
        return PictureRecord.from_fields(
            {name: _value(name, chunk) for name, chunk in text.items()}, path=str(path)
        )
    except (ConfigError, ValueError, RecursionError) as error:
        raise InputError(f"the text in {path} is not what dalle writes: {error}") from None


def _value(name: str, chunk: str) -> Any:
    hints = {f.name: f.type for cls in (PictureRecord, Made) for f in fields(cls)}
    is_text = hints.get(name) is str or name == "score_kind"
    return chunk if is_text else json.loads(chunk)


def create(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet; under its name it is whole or absent.

    Raises:
        FileExistsError: it exists, be it as a link to nowhere.
        SaveError: it cannot be written.
    """
    _must_be_new(path)
    # Beside it, so that neither a signal nor the end of the process leaves half of it.
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    try:
        with os.fdopen(os.open(scratch, flags | getattr(os, "O_BINARY", 0), 0o666), "wb") as file:
            file.write(data)
        try:
            os.link(scratch, path)
        except FileExistsError:
            raise
        except OSError:  # some file systems have no hard links
            _must_be_new(path)
            scratch.replace(path)
    except FileExistsError:
        raise
    except OSError as error:
        raise SaveError(_save_message(path, len(data), error)) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _must_be_new(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(path)


def _save_message(path: Path, size: int, error: OSError) -> str:
    return (
        f"cannot write {path} ({size:,} bytes): {error.strerror or error}; make room there, make "
        "it writable, or give another folder"
    )
