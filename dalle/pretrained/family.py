"""What a family of published checkpoints is given, and what it gives back.

Each file of a family has two functions:

    recognise(source) -> Sighting | None     from the keys and shapes in it, never from its name
    convert(source) -> Converted             raises CheckpointError, naming the tensor, where one is
                                             missing, misshapen or not known
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dalle.errors import CheckpointError, ConfigError
from dalle.models.skeleton import skeleton


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """One file of tensors, read without executing anything."""

    path: Path
    value: Any
    """Everything in it: plain containers, tensors, and `Record`s in place of foreign objects."""
    state: dict[str, Tensor]
    """The state dict in it, out of whatever wraps it; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What the user gave: a file of tensors, or a folder of them with what lies beside."""

    path: Path
    weights: tuple[Weights, ...]
    """The files of tensors in it."""
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """What lies beside them in small files (.json, .yaml, .txt, .model), by path within the
    folder."""
    beginning: bytes = b""
    """Of a single file in no format that is read here: enough to say what it is."""


class Savable(Protocol):
    """What writes itself to a file."""

    def save(self, path: Path, /) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What a source was recognised as."""

    family: str
    """As people call it: "ru-DALL·E"."""
    version: str
    """Which of the family's layouts it is; empty where there is one."""
    holds: str
    """What the main part is, in words: "text to image", "image tokenizer", "CLIP"."""
    sizes: Mapping[str, int | str]
    """What can be read from it: depth, width, number of codes ..."""
    licence: str
    """Of the published weights, or that none is stated."""
    missing: tuple[str, ...] = ()
    """What generating needs besides, each with where it is published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A model of ours, with what came along."""

    module: nn.Module
    """Filled, in evaluation mode, in the dtype of the file; `module.config` is its config."""
    sighting: Sighting
    text_tokenizer: Savable | None = None
    image_tokenizer: nn.Module | None = None
    reranker: nn.Module | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `sampling.filters.Sampling` that the original takes by default."""


def fit(
    build: Callable[[Any], nn.Module],
    config: Any,
    state: Mapping[str, Tensor],
    *,
    path: Path,
    family: str,
    theirs: Callable[[str], str] = str,
    ignorable: Sequence[str] = (),
) -> nn.Module:
    """Build a module and fill it, strictly: every tensor is used, or named as ignorable.

    Args:
        build: the class of the module.
        config: what it is built from.
        state: tensors by their original names.
        path: the file, for messages.
        family: for messages.
        theirs: from the name of a tensor in our module to the original one.
        ignorable: patterns of original names that are passed over, to be matched in full.

    Raises:
        CheckpointError: a tensor is missing, has another shape or is not known.
    """
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
    for name, shape in expected.items():
        original = theirs(name)
        if original not in state:
            raise CheckpointError(f"{path} lacks {original!r}, which {family} of this size has")
        if state[original].shape != shape:
            raise CheckpointError(
                f"{path}: {original!r} has the shape {tuple(state[original].shape)}; {family} of "
                f"this size has {tuple(shape)}"
            )
    used = {theirs(name) for name in expected}
    for original in state:
        if original not in used and not any(re.fullmatch(p, original) for p in ignorable):
            raise CheckpointError(f"{path} holds {original!r}, which {family} of this size has not")
    module = skeleton(build, config)
    taken = {name: _copied(state[theirs(name)], theirs(name), path) for name in expected}
    module.load_state_dict(taken, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _copied(tensor: Tensor, original: str, path: Path) -> Tensor:
    """A copy outlives the file, and is aligned as fresh tensors are."""
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise CheckpointError(f"{path}: {original!r} holds values that are not finite numbers")
    return tensor.clone(memory_format=torch.contiguous_format)


def agreed_size(
    state: Mapping[str, Tensor], *places: tuple[str, int], path: Path, family: str
) -> int:
    """A size that several tensors have: what most of them say, so that the odd one is named later.

    Args:
        places: names of tensors, each with the axis that has the size; the first decides a tie.

    Raises:
        CheckpointError: none of them is there.
    """
    said = [state[n].shape[axis] for n, axis in places if n in state and state[n].ndim > axis]
    if not said:
        raise CheckpointError(
            f"{path} lacks {places[0][0]!r}, from which a size of {family} is read"
        )
    return max(said, key=said.count)


def axis(state: Mapping[str, Tensor], name: str, number: int, *, path: Path, family: str) -> int:
    """The length of one axis of a tensor from which a config is read.

    Raises:
        CheckpointError: there is no such tensor, or it has fewer axes.
    """
    if name not in state or state[name].ndim <= number:
        raise CheckpointError(
            f"{path} lacks {name!r}, or it has too few axes; {family} has its sizes there"
        )
    return state[name].shape[number]


def configured(make: Callable[[], Any], *, path: Path, family: str) -> Any:
    """A config from sizes that a file claims.

    Raises:
        CheckpointError: the sizes cannot be.
    """
    try:
        return make()
    except ConfigError as error:
        raise CheckpointError(f"{path} is no {family}: {error}") from None


def agreed(
    state: Mapping[str, Tensor], places: Sequence[tuple[str, int]], *, path: Path, family: str
) -> int:
    """The length that most of these axes have: so the tensor that differs from the others is the
    one that `fit` refuses, and not all the others.

    Raises:
        CheckpointError: none of the tensors is there, or as many of them say one as another.
    """
    found = {
        name: state[name].shape[number]
        for name, number in places
        if name in state and state[name].ndim > number
    }
    if not found:
        names = ", ".join(repr(name) for name, _ in places)
        raise CheckpointError(f"{path} lacks {names}; {family} has its sizes there")
    most, *others = Counter(found.values()).most_common(2)
    if others and others[0][1] == most[1]:
        said = ", ".join(f"{length} in {name!r}" for name, length in found.items())
        raise CheckpointError(f"{path}: a size is {said}; in {family} these are the same")
    return most[0]


def indices(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the names have where `pattern` has its only group."""
    return len({match[1] for name in state if (match := re.fullmatch(pattern, name))})


def lengths(
    state: Mapping[str, Tensor], named: Sequence[tuple[str, str, int]]
) -> dict[str, int | str]:
    """For `Sighting.sizes`: of (what it is, tensor, axis) those that the state has."""
    return {
        what: state[name].shape[number]
        for what, name, number in named
        if name in state and state[name].ndim > number
    }
