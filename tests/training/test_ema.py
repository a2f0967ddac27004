import pytest
import torch

from dalle.errors import ConfigError
from dalle.training.ema import Ema
from tests.toys import Toy, ToyConfig


def set_all(model: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_the_average_follows_the_definition_with_its_warm_up() -> None:
    model = Toy(ToyConfig())
    set_all(model, 0.0)
    ema = Ema(model, decay=0.5, every=3)
    expected = 0.0
    for step in range(1, 40):
        set_all(model, float(step))
        ema.update(step=step)
        if step % 3 == 0:
            times = step // 3
            decay = min(0.5, (1 + times) / (10 + times))
            expected = decay * expected + (1 - decay) * step
        for parameter in ema.module.parameters():
            torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
    assert expected < 39  # it lags behind


def test_the_copy_is_float32_takes_no_gradient_and_shares_nothing() -> None:
    model = Toy(ToyConfig()).to(torch.bfloat16)
    ema = Ema(model, decay=0.0)
    assert all(p.dtype == torch.float32 for p in ema.module.parameters())
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert not ema.module.training and model.training
    set_all(model, 3.0)
    assert not any((p == 3.0).all() for p in ema.module.parameters())
    ema.update(step=1)  # decay 0: the model itself
    assert all((p == 3.0).all() for p in ema.module.parameters())


def test_settings_that_cannot_work_are_refused() -> None:
    model = Toy(ToyConfig())
    for decay, every in ((1.0, 1), (-0.1, 1), (0.9, 0)):
        with pytest.raises(ConfigError, match="ema_"):
            Ema(model, decay=decay, every=every)
