"""From a model to a folder that is enough to generate from."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import Tensor, nn

from dalle.checkpoint.links import refuse_links_outside
from dalle.checkpoint.load import CONFIG, FORMAT, KINDS, WEIGHTS
from dalle.checkpoint.manifest import (
    MANIFEST,
    TEMPORARY,
    saving,
    sync_folder,
    whole_folder,
    write_json,
)
from dalle.checkpoint.places import resolve
from dalle.checkpoint.steps import RUN
from dalle.config import to_json
from dalle.errors import InputError

TEXT_TOKENIZER = "text_tokenizer.json"
IMAGE_TOKENIZER = "image_tokenizer"
RERANKER = "reranker"


class Savable(Protocol):
    """What writes itself to a file."""

    def save(self, path: Path, /) -> None: ...


def save_model_folder(
    folder: str | Path,
    *,
    kind: str,
    config: Any,
    module: nn.Module,
    ema: nn.Module | None = None,
    extra: Mapping[str, Any] | None = None,
    text_tokenizer: Savable | None = None,
    image_tokenizer: Path | nn.Module | None = None,
    reranker: Path | nn.Module | None = None,
) -> Path:
    """Write a model folder; an older model folder of that name is replaced once this one is whole.

    Args:
        folder: where; its parents are made.
        kind: one of `KINDS`.
        config: the dataclass that `module` was built from.
        module: its state is written.
        ema: a copy of the module with averaged weights.
        extra: further fields of config.json.
        text_tokenizer: written as text_tokenizer.json.
        image_tokenizer: a model folder that is copied, or a model that is saved, beside.
        reranker: likewise.

    Raises:
        SaveError: the disk does not take it; nothing is left behind.
        InputError: `folder` holds something that is no model folder.
    """
    target = Path(folder).expanduser()
    if target.exists() and not _replaceable(target):
        raise InputError(f"{target} exists and is no model folder; give a new or an empty folder")
    with saving(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY}new-{target.name}-{os.getpid()}"
    with whole_folder(temporary, target.name) as inside:
        write_weights(inside, module.state_dict())
        if ema is not None:
            write_weights(inside, ema.state_dict(), name=WEIGHTS["ema"])
        write_config(inside, kind=kind, model=to_json(config), extra=extra)
        if text_tokenizer is not None:
            text_tokenizer.save(inside / TEXT_TOKENIZER)
        for name, what in ((IMAGE_TOKENIZER, image_tokenizer), (RERANKER, reranker)):
            if what is not None:
                write_neighbour(inside / name, what)
    with saving(target):
        _replace(temporary, target)
    return target


def write_config(
    folder: Path, *, kind: str, model: Any, extra: Mapping[str, Any] | None = None
) -> None:
    """Write config.json, the file that makes a folder a model folder."""
    clash = sorted({"format", "kind", "model"} & set(extra or {}))
    if clash:
        raise InputError(f"{clash[0]!r} is a field of every config.json, not a further one")
    fields = {"format": FORMAT, "kind": kind, "model": model, **to_json(dict(extra or {}))}
    write_json(folder / CONFIG, fields)


def write_weights(folder: Path, state: Mapping[str, Tensor], *, name: str = "") -> None:
    """Write a state dict as safetensors, by default as model.safetensors."""
    path = folder / (name or WEIGHTS["model"])
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with saving(path, needed=sum(t.numel() * t.element_size() for t in tensors.values())):
        save_file(tensors, path)


def write_neighbour(folder: Path, what: Path | nn.Module) -> None:
    """Put a model beside another: copy its folder, or save it.

    Args:
        folder: the new folder, inside the other model's.
        what: a model folder, also of `transformers`; a run, whose newest whole step is taken; or
            one of our models.
    """
    if isinstance(what, nn.Module):
        save_model_folder(folder, kind=kind_of(what), config=what.config, module=what)
        return
    source = what if (what / CONFIG).is_file() else resolve(what)
    refuse_links_outside(source)
    # Written anew, manifest too: the source's may list what is not copied.
    with whole_folder(folder, folder.name) as inside, saving(folder):
        shutil.copytree(
            source,
            inside,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("training", ".*", RUN, MANIFEST),
        )


def kind_of(module: nn.Module) -> str:
    """The kind of one of our models."""
    for kind, (source, _, name) in KINDS.items():
        if (type(module).__module__, type(module).__name__) == (source, name):
            return kind
    raise InputError(f"{type(module).__name__} is none of our models ({', '.join(KINDS)})")


def _replaceable(target: Path) -> bool:
    if not target.is_dir():
        return False
    return (target / CONFIG).is_file() or not any(target.iterdir())


def _replace(new: Path, target: Path) -> None:
    old = target.parent / f"{TEMPORARY}old-{target.name}-{os.getpid()}"
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
