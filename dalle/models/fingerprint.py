"""What changes when the weights of a model do."""

import json
from hashlib import blake2b, sha256
from typing import Any

import torch
from torch import nn


def digest_of(model: nn.Module, said: Any) -> str:
    """A hash of a model's weights as they are held, and of what is said of it besides.

    It is for what the model makes, which is another thing in another dtype. Models of CLIP's
    vectors and the caches keep it: it must stay as it is.

    Args:
        said: JSON values.
    """
    digest = blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(model: nn.Module) -> str:
    """Names and numbers of all weights in 16 letters: the same wherever and however they are held.

    It is for people, and for which model judged. Evaluations keep it: it must stay as it is.
    """
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
