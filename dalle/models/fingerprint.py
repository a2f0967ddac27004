"""What changes when the weights of a model do."""

import json
from hashlib import blake2b
from typing import Any

import torch
from torch import nn


def digest_of(model: nn.Module, said: Any) -> str:
    """A hash of a model's weights and of what is said of it besides, as JSON values."""
    digest = blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
