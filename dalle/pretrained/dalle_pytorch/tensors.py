"""The tensors of a file against those that a model needs, told by the file's own names."""

from collections.abc import Mapping

from torch import Tensor

from dalle.errors import CheckpointError


def shape_of(weights: Mapping[str, Tensor], key: str, *, axes: int) -> tuple[int, ...]:
    """The shape of a tensor from which sizes are read.

    Raises:
        CheckpointError: it is missing or has another number of axes.
    """
    if key not in weights:
        raise CheckpointError(f"{key} is missing: the file is damaged or of another kind of model")
    shape = tuple(weights[key].shape)
    if len(shape) != axes:
        raise CheckpointError(f"{key} has the shape {shape}; expected {axes} axes")
    return shape


def check_tensors(
    weights: Mapping[str, Tensor],
    names: Mapping[str, str],
    expected: Mapping[str, Tensor],
    *,
    what: str,
) -> None:
    """Refuse a tensor that is missing, superfluous or of another shape, by the file's own name.

    Args:
        weights: the tensors that are to be used.
        names: our name of each of them; several may have the same one.
        expected: our names with tensors of the shapes that are needed.
        what: the kind of model, for the messages.

    Raises:
        CheckpointError: they do not match.
    """
    for key, name in names.items():
        if name not in expected:
            raise CheckpointError(f"{key} is no tensor of {what} of these sizes")
        wanted, came = tuple(expected[name].shape), tuple(weights[key].shape)
        if wanted != came:
            raise CheckpointError(f"{key} has the shape {came}; {what} of these sizes has {wanted}")
    for name in expected:
        if name not in names.values():
            raise CheckpointError(f"{name} (in our names) is missing in {what}")
