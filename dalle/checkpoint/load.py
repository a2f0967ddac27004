"""From a folder to a model: checked before anything is allocated, and nothing is executed."""

import importlib
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dalle.checkpoint.foreign import converted_folder, is_foreign
from dalle.checkpoint.hub import download, looks_like_hub_name
from dalle.checkpoint.manifest import MANIFEST, verify
from dalle.checkpoint.steps import find_whole, is_run, step_of
from dalle.checkpoint.weights import Header, check_shapes, read_header, read_tensors
from dalle.config import from_json
from dalle.errors import CheckpointError, ConfigError, InputError
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

log = logging.getLogger(__name__)


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


def resolve(where: str | Path) -> Path:
    """The model folder that a path or a hub name means.

    Another project's checkpoint is converted into one, once, in the user's cache.
    """
    path = Path(where).expanduser()
    if path.exists() and is_foreign(path):
        return converted_folder(path)
    if path.is_dir():
        if not is_run(path):
            return path
        whole = find_whole(path, training=False)
        for skipped in whole.skipped:
            log.warning("%s is not whole, an older step is taken: %s", skipped.path, skipped.reason)
        return whole.path
    if isinstance(where, str) and looks_like_hub_name(where):
        found = download(where)
        return converted_folder(found) if is_foreign(found) else found
    raise InputError(
        f"there is no model folder {path}; a model's name on the hub is owner/name, one of its "
        "files owner/name/file, and owner/name@revision names a revision"
    )


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


def _build(
    folder: Path, fields: dict[str, Any], name: str, *, device: str | torch.device
) -> tuple[nn.Module, Any]:
    module_name, config_name, class_name = KINDS[fields["kind"]]
    source = importlib.import_module(module_name)
    path = folder / name
    try:
        config = from_json(
            getattr(source, config_name), fields["model"], path=f"{folder / CONFIG}: model"
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    header = read_header(path)
    build = getattr(source, class_name)
    # Once without memory, to see that the file has what the config asks for; only then for real.
    with torch.device("meta"), _no_deeper_than(header, folder):
        check_shapes(build(config).state_dict(), path)
    module = skeleton(build, config)
    module.load_state_dict(read_tensors(path, device), strict=True, assign=True)
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
