"""The names under which DALLE-pytorch stored a transformer, version by version.

Around each attention and MLP stand modules that only pass things on, all called `fn`. How many
there are tells whether tokens are shifted:

    version                       before to_qkv    before net
    0.8 to 1.2.2                  2                2
    1.0 to 1.2.2, shifted         3                3
    from 1.4                      3                2
    from 1.4, shifted             5                4

Source: lucidrains/DALLE-pytorch, state dicts of the versions from 0.7.2 to 1.6.6.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dalle.errors import CheckpointError

SHIFTED = {(2, 2): False, (3, 3): True, (3, 2): False, (5, 4): True}
"""Whether tokens are shifted, by the numbers of `fn` before `to_qkv` and before `net`."""
FAMILY = "DALLE-pytorch"

_PLACE = r"\.layers\.(?:layers\.(\d+)\.([01])|blocks\.(\d+)\.([fg])\.net)\.(.+)"
_INNER = re.compile(r"((?:fn\.)*)(to_qkv|net)\..+")
_OURS = re.compile(r"(attentions|mlps|attention_branches|mlp_branches)\.(\d+)\.(.+)")
_LEAVES = {
    "attentions": {"qkv": "to_qkv", "out": "to_out.0"},
    "mlps": {"into": "net.0", "out": "net.3"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStack:
    """How a transformer was stored."""

    prefix: str
    """What its names begin with: "transformer"."""
    depth: int
    reversible: bool
    shifted: bool
    sandwich: bool
    before_qkv: int
    before_net: int

    def layer(self, number: int, part: int) -> str:
        """What the names of a layer begin with: part 0 is the attention, 1 the MLP."""
        if self.reversible:
            return f"{self.prefix}.layers.blocks.{number}.{'fg'[part]}.net."
        return f"{self.prefix}.layers.layers.{number}.{part}."

    def inner(self, number: int, part: int) -> str:
        """What the names of a layer's attention, or MLP, begin with."""
        return self.layer(number, part) + "fn." * (self.before_net if part else self.before_qkv)

    def original(self, ours: str, attention_of: tuple[int, ...], mlp_of: tuple[int, ...]) -> str:
        """The stored name of a tensor of `layers.Stack`.

        What several layers share is stored under each of them; the last one counts.
        """
        match = _OURS.fullmatch(ours)
        assert match is not None, ours
        kind, digits, rest = match.groups()
        part, number = int(kind.startswith("mlp")), int(digits)
        if kind not in _LEAVES:
            return self.layer(number, part) + ("scale" if rest == "scale" else f"fn.{rest}")
        users = mlp_of if part else attention_of
        last = max(layer for layer, user in enumerate(users) if user == number)
        name, _, parameter = rest.partition(".")
        return f"{self.inner(last, part)}{_LEAVES[kind][name]}.{parameter}"

    def copies(self, attention_of: tuple[int, ...], mlp_of: tuple[int, ...]) -> dict[str, str]:
        """Stored names that are further copies of shared tensors, with the names that count."""
        found = {}
        for part, users in enumerate((attention_of, mlp_of)):
            for layer, user in enumerate(users):
                last = max(other for other, its in enumerate(users) if its == user)
                if last != layer:
                    for leaf in LEAVES[part]:
                        found[self.inner(layer, part) + leaf] = self.inner(last, part) + leaf
        return found


LEAVES = (
    ("to_qkv.weight", "to_out.0.weight", "to_out.0.bias"),
    ("net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"),
)


def read_stack(names: Iterable[str], *, prefix: str, path: Path) -> StoredStack:
    """How a transformer was stored, from the names alone.

    Raises:
        CheckpointError: it is of a version before 0.9, or the names do not fit together.
    """
    place = re.compile(re.escape(prefix) + _PLACE)
    found = [(name, match) for name in names if (match := place.fullmatch(name))]
    if not found:
        raise CheckpointError(f"{path} has no layers {prefix}.layers...: it is no {FAMILY} model")
    depth, reversible, sandwich = 0, False, False
    counts: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for name, match in found:
        plain, _, block, _, rest = match.groups()
        depth = max(depth, 1 + int(plain or block))
        reversible = reversible or block is not None
        sandwich = sandwich or rest.startswith("fn.norm_out.")
        if rest.startswith("norm."):
            refuse_old(path)
        if inner := _INNER.fullmatch(rest):
            counts[inner[2] == "net"].setdefault(inner[1].count("fn."), name)
    for kind, of in (("to_qkv", counts[0]), ("net", counts[1])):
        if len(of) != 1:
            names_of = " and ".join(of.values()) or f"none of {prefix}.layers...{kind}"
            raise CheckpointError(
                f"{path}: every layer has its {kind} at the same depth in {FAMILY}; found "
                f"{names_of}"
            )
    depths = (next(iter(counts[0])), next(iter(counts[1])))
    if depths not in SHIFTED:
        raise CheckpointError(
            f"{path}: {counts[0][depths[0]]} and {counts[1][depths[1]]} are together of no version "
            f"of {FAMILY} from 0.9 to 1.6.6"
        )
    return StoredStack(
        prefix=prefix,
        depth=depth,
        reversible=reversible,
        shifted=SHIFTED[depths],
        sandwich=sandwich,
        before_qkv=depths[0],
        before_net=depths[1],
    )


def refuse_old(path: Path) -> None:
    """Say that a file is older than what is read."""
    raise CheckpointError(
        f"{path} was written by a version of {FAMILY} before 0.9, whose texts are padded in "
        "another way; versions 0.9 to 1.6.6 are read"
    )
