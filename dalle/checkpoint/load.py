"""From a folder to a model: checked before anything is allocated, and nothing is executed."""

import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dalle.checkpoint.manifest import MANIFEST, verify
from dalle.checkpoint.places import resolve
from dalle.checkpoint.steps import step_of
from dalle.checkpoint.weights import Header, check_shapes, read_header, read_tensors
from dalle.config import from_json
from dalle.errors import CheckpointError, ConfigError
from dalle.json_files import read_json
from dalle.models.skeleton import skeleton

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = {"model": "model.safetensors", "ema": "ema.safetensors"}
DALLE_PYTORCH = "dalle.pretrained.dalle_pytorch"
KINDS = {
    "dvae": ("dalle.models.dvae", "DvaeConfig", "Dvae"),
    "clip": ("dalle.models.clip", "ClipConfig", "Clip"),
    "dalle": ("dalle.models.dalle", "DalleConfig", "Dalle"),
    "clip_gen": ("dalle.models.clip_gen", "ClipGenConfig", "ClipGen"),
    "vqgan": ("dalle.models.vqgan", "VqganConfig", "Vqgan"),
    "dalle_pytorch": (f"{DALLE_PYTORCH}.model", "DallePytorchConfig", "DallePytorch"),
    "dalle_pytorch_vae": (f"{DALLE_PYTORCH}.vae", "DallePytorchVaeConfig", "DallePytorchVae"),
    "dalle_pytorch_clip": (f"{DALLE_PYTORCH}.clip", "DallePytorchClipConfig", "DallePytorchClip"),
    "rudalle": ("dalle.pretrained.rudalle_model", "RudalleConfig", "Rudalle"),
    "mindalle": ("dalle.pretrained.mindalle_model", "MindalleConfig", "Mindalle"),
    "llamagen": ("dalle.pretrained.llamagen_model", "LlamagenConfig", "Llamagen"),
}
DECODERS = ("dalle", "clip_gen", "dalle_pytorch", "rudalle", "mindalle", "llamagen")
"""The kinds that draw pictures from texts."""
IMAGE_TOKENIZERS = ("dvae", "vqgan", "dalle_pytorch_vae")
"""The kinds that are pictures as codes."""
RERANKERS = ("clip", "dalle_pytorch_clip")
"""The kinds that say how well a picture shows a text."""
SPARE_TENSORS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedFolder:
    """A model and what its folder says of it."""

    kind: str
    """One of `KINDS`."""
    config: Any
    """The model's own config."""
    module: nn.Module
    """In evaluation mode."""
    extra: dict[str, Any]
    """The further fields of config.json."""
    path: Path
    """The folder that was read: of a run, its newest whole step."""
    step: int | None
    """The step it was saved at, where the folder is one of a run."""
    weights: str
    """Which weights were taken: "model" or "ema"."""


def load_folder(
    where: str | Path,
    *,
    kind: str | tuple[str, ...] | None = None,
    weights: Literal["auto", "ema", "model"] = "auto",
    device: str | torch.device = "cpu",
) -> LoadedFolder:
    """Load a model.

    Args:
        where: a model folder, a run (its newest whole step is taken) or, where no such path exists,
            a model's name on the hub, `owner/name`.
        kind: refuse other kinds than this, or than these.
        weights: "auto" takes the averaged weights where there are any.
        device: where the weights go.

    Raises:
        CheckpointError: the folder is damaged, of another kind, or of a newer format.
        NoWholeCheckpoint: a run without a whole step.
        InputError: there is no such folder.
    """
    folder = resolve(where)
    fields = read_config(folder, kind=kind)
    name = choose_weights(folder, weights)
    others = tuple(w for w in WEIGHTS.values() if w != name and (folder / w).exists())
    check_listed(folder, name, skip=others)
    module, config = _build(folder, fields, name, device=device)
    extra = {key: v for key, v in fields.items() if key not in ("format", "kind", "model")}
    return LoadedFolder(
        kind=fields["kind"],
        config=config,
        module=module.eval(),
        extra=extra,
        path=folder,
        step=step_of(folder),
        weights="ema" if name == WEIGHTS["ema"] else "model",
    )


def resolve_decoder(where: str | Path, *, text_tokenizer: Path | None = None) -> Path:
    """As `resolve`, for a decoder that is to draw.

    Raises:
        CheckpointError: it is none, or another project's without what it needs; the message says
            what, and where it is found.
    """
    folder = resolve(where, text_tokenizer=text_tokenizer)
    source = read_config(folder, kind=DECODERS).get("source")
    missing = source.get("missing") if isinstance(source, dict) else None
    if isinstance(missing, list) and missing:
        raise CheckpointError(f"{where} draws no pictures without {'; '.join(map(str, missing))}")
    return folder


def read_config(folder: Path, *, kind: str | tuple[str, ...] | None = None) -> dict[str, Any]:
    """The fields of config.json, of which format and kind are checked."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a model folder: it has no {CONFIG}")
    try:
        fields = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise CheckpointError(
            f"{path} is not a config of ours: it needs a whole number as field `format`"
        )
    if fields["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {fields['format']}; this version reads up to format {FORMAT}: "
            "update dalle to read it"
        )
    found = fields.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        raise CheckpointError(
            f"{path}: kind is {found!r}; this version knows {', '.join(map(repr, KINDS))}"
        )
    wanted = (kind,) if isinstance(kind, str) else kind
    if wanted is not None and found not in wanted:
        expected = " or ".join(map(repr, wanted))
        raise CheckpointError(f"{folder} holds a model of kind {found!r}; expected {expected}")
    if "model" not in fields:
        raise CheckpointError(f"{path}: field `model` is missing")
    return fields


def choose_weights(folder: Path, weights: str) -> str:
    """The name of the weights file that is to be read."""
    names = {"auto": ("ema", "model")}.get(weights, (weights,))
    for name in names:
        if (folder / WEIGHTS[name]).is_file():
            return WEIGHTS[name]
    raise CheckpointError(f"{folder} has no {WEIGHTS[names[-1]]}")


def check_listed(folder: Path, name: str, *, skip: tuple[str, ...] = ()) -> None:
    """Compare the folder's own files with its manifest, where it has one.

    Folders inside (tokenizers, a reranker) have manifests of their own, read when they are.
    """
    if not (folder / MANIFEST).exists():
        return
    inner = {path.parent for path in folder.glob(f"*/{MANIFEST}")}
    below = {p.relative_to(folder).as_posix() for i in inner for p in i.rglob("*") if p.is_file()}
    entries = verify(folder, training=False, skip=(*skip, *sorted(below)))
    for needed in (CONFIG, name):
        if needed not in entries:
            raise CheckpointError(f"{folder / needed} is not listed in {MANIFEST}")


def checked_config(folder: Path, fields: dict[str, Any], name: str) -> Any:
    """The config that a folder's model is built from, held against its weights' header.

    Args:
        folder: a model folder.
        fields: of its config.json.
        name: of the weights file.

    Raises:
        CheckpointError: the config describes no model, or another one than the weights are of.
    """
    module_name, config_name, _ = KINDS[fields["kind"]]
    cls = getattr(importlib.import_module(module_name), config_name)
    try:
        config = from_json(cls, fields["model"], path=f"{folder / CONFIG}: model")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    header = read_header(folder / name)
    # Without memory, to see that the file has what the config asks for; only then for real.
    with torch.device("meta"), _no_deeper_than(header, folder):
        check_shapes(model_class(fields["kind"])(config).state_dict(), folder / name)
    return config


def model_class(kind: str) -> Callable[[Any], nn.Module]:
    """What builds a model of a kind from its config."""
    module_name, _, class_name = KINDS[kind]
    build: Callable[[Any], nn.Module] = getattr(importlib.import_module(module_name), class_name)
    return build


def _build(
    folder: Path, fields: dict[str, Any], name: str, *, device: str | torch.device
) -> tuple[nn.Module, Any]:
    config = checked_config(folder, fields, name)
    module = skeleton(model_class(fields["kind"]), config)
    module.load_state_dict(read_tensors(folder / name, device), strict=True, assign=True)
    return module.to(device), config


@contextmanager
def _no_deeper_than(header: Header, folder: Path) -> Iterator[None]:
    """Stop building when there are far more tensors than in the file: a config may be hostile."""
    left = itertools.count(2 * len(header) + SPARE_TENSORS, -1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if next(left) < 0:
            raise CheckpointError(
                f"{folder / CONFIG} describes a larger model than the weights beside it"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{folder / CONFIG} describes no model: {error}") from None
    finally:
        hook.remove()
