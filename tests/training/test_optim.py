import pytest
import torch
from torch import nn

from dalle.errors import ConfigError
from dalle.training.optim import OptimConfig, build_optimizer, decayed, set_lr
from tests.toys import Toy, ToyConfig


class Tables(nn.Module):
    """Bare parameters: a table of positions, a convolution's kernel called `w`, its bias `b`."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(4, 3))
        self.w = nn.Parameter(torch.zeros(2, 3, 5, 5))
        self.b = nn.Parameter(torch.zeros(2))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def test_only_matrices_and_kernels_decay() -> None:
    toy = Toy(ToyConfig())
    assert {name for name, decays in decayed(toy).items() if decays} == {
        "first.weight",
        "last.weight",
    }
    assert {name for name in decayed(toy)} == {name for name, _ in toy.named_parameters()}
    assert decayed(Tables()) == {"positions": False, "w": True, "b": False, "scale": False}


def test_every_parameter_is_in_one_group_and_decays_as_it_should() -> None:
    toy = Toy(ToyConfig())
    optimizer = build_optimizer(toy, OptimConfig(lr=0.5, weight_decay=0.1))
    for parameter in toy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in toy.named_parameters()}
    optimizer.step()
    for name, parameter in toy.named_parameters():
        factor = 1 - 0.5 * 0.1 if decayed(toy)[name] else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_the_step_size_is_what_is_set() -> None:
    layer = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(layer, OptimConfig(lr=0.5))
    for lr in (0.25, 0.125):
        before = layer.weight.item()
        layer.weight.grad = torch.ones(1, 1)
        set_lr(optimizer, lr)
        optimizer.step()  # Adam's first steps under a constant gradient have the step size's length
        assert before - layer.weight.item() == pytest.approx(lr, rel=1e-5)


def test_the_step_size_follows_the_schedule_alone() -> None:
    config = OptimConfig(lr=0.5)
    assert [config.lr_at(step, steps=10) for step in (0, 5, 9)] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"lr": float("inf")},
        {"betas": (0.9, 1.0)},
        {"eps": 0.0},
        {"weight_decay": -0.1},
        {"clip_norm": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimConfig(**wrong)  # type: ignore[arg-type]
