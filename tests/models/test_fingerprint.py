"""Both hashes of weights: saved models and evaluations hold them, so that they may not change."""

import torch
from torch import nn

from dalle.models.fingerprint import digest_of, fingerprint


def model(dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(6.0).reshape(2, 3))
        linear.bias.copy_(torch.tensor([0.5, -1.0]))
    return linear.to(dtype)


def test_values_of_earlier_records_are_found_again() -> None:
    assert digest_of(model(torch.float32), {"b": 1, "a": [2]}) == "a7f89a980b0eeb2e079a71916479656d"
    assert fingerprint(model(torch.float32)) == "17f80f55e7f5e1d9"


def test_only_the_one_for_what_a_model_makes_depends_on_the_dtype() -> None:
    full, half = model(torch.float32), model(torch.bfloat16)
    assert fingerprint(full) == fingerprint(half)
    assert digest_of(full, None) != digest_of(half, None)
