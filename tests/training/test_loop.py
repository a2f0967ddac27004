import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dalle import checkpoint
from dalle.checkpoint import load, steps
from dalle.errors import ConfigError, OutOfMemoryError
from dalle.training import loop, tracking
from dalle.training.loop import TrainConfig, TrainResult, train
from dalle.training.optim import OptimConfig
from dalle.training.schedules import WarmupCosine
from tests.toys import ToyConfig, ToySource, ToyTask

OPTIM = OptimConfig(
    lr=1e-2, weight_decay=0.1, clip_norm=1.0, schedule=WarmupCosine(warmup=3, final=0.1)
)


def settings(**changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "steps": 12,
        "batch_size": 6,
        "optim": OPTIM,
        "ema_decay": 0.9,
        "log_every": 1,
        "validate_every": 5,
        "preview_every": 0,
        "save_every": 5,
        "device": "cpu",
    }
    return TrainConfig(**(fields | changes))


def run(out: Path, config: TrainConfig, task: ToyTask | None = None, **options: Any) -> TrainResult:
    return train(
        task or ToyTask(),
        config,
        train_source=ToySource(),
        held_out_source=ToySource(size=7),
        out=out,
        **options,
    )


def curve(out: Path) -> list[dict[str, float]]:
    """metrics.jsonl without its times."""
    lines = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in tracking.TIME_FIELDS} for line in lines]


def weights(out: Path, name: str = "model") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint.latest_whole(out) / f"{name}.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in {**left, **right})


def test_a_run_learns_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path / "run", settings(steps=60, save_every=20, preview_every=30))
    lines = curve(tmp_path / "run")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 60 and sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert lines[0].keys() == {"step", "loss", "double", "lr", "grad_norm"}
    assert lines[0]["double"] == pytest.approx(2 * lines[0]["loss"])
    assert [line["step"] for line in lines if "held_out/loss" in line] == [*range(5, 61, 5)]
    assert result.step == 60 and result.metrics["loss"] == losses[-1]
    assert result.checkpoint == tmp_path / "run" / "step-00000060"
    assert result.held_out is not None and result.held_out["loss"] == lines[-1]["held_out/loss"]
    assert sorted(p.parent.name for p in (tmp_path / "run").glob("previews/*/toy.png")) == [
        "step-00000030",
        "step-00000060",
    ]
    said = capsys.readouterr().err
    assert "73 parameters, cpu, single, float32" in said and "step 60/60" in said


def test_the_step_size_is_the_schedules(tmp_path: Path) -> None:
    run(tmp_path, settings())
    rates = [line["lr"] for line in curve(tmp_path) if "lr" in line]
    assert rates == [OPTIM.lr * OPTIM.schedule(step, 12) for step in range(12)]


def test_a_checkpoint_is_a_model_folder_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(load.KINDS, "dvae", ("tests.toys", "ToyConfig", "Toy"))
    run(tmp_path, settings(), run_config={"data": "numbers", "size": (2, 3)})
    loaded = checkpoint.load_folder(tmp_path)
    assert (loaded.step, loaded.weights, loaded.config) == (12, "ema", ToyConfig())
    assert loaded.extra == {"note": "toy"}
    assert (loaded.path / "image_tokenizer" / "config.json").is_file()
    saved = steps.read_run(loaded.path)
    assert saved["step"] == 12 and saved["samples_seen"] == 72 and saved["world"] == 1
    assert saved["config"] == {"data": "numbers", "size": [2, 3]}
    assert saved["train"]["optim"]["schedule"]["warmup"] == 3
    assert saved["held_out"]["step"] == 12 and saved["versions"]["torch"] == torch.__version__


def test_neighbours_are_linked_between_steps(tmp_path: Path) -> None:
    run(tmp_path, settings(keep_last=3))
    files = list(tmp_path.glob("step-*/text_tokenizer.json"))
    assert len(files) == 3 and len({path.stat().st_ino for path in files}) == 1
    for path in steps.list_steps(tmp_path):
        checkpoint.verify(path, training=True)


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_micro_batches_change_nothing_but_rounding(tmp_path: Path, micro_batches: int) -> None:
    run(tmp_path / "whole", settings())
    run(tmp_path / "parts", settings(micro_batches=micro_batches))
    for whole, parts in zip(curve(tmp_path / "whole"), curve(tmp_path / "parts"), strict=True):
        assert whole.keys() == parts.keys()
        for name in whole:
            assert parts[name] == pytest.approx(whole[name], rel=2e-4, abs=1e-6)


def test_each_update_sees_its_own_samples_and_every_epoch_all_of_them(tmp_path: Path) -> None:
    task = ToyTask()
    run(tmp_path, settings(steps=37), task)  # 6 epochs of 37 samples
    seen = [index for _, part in task.seen for index in part]
    for epoch in range(6):
        assert sorted(seen[epoch * 37 : (epoch + 1) * 37]) == list(range(37))
    assert seen[:37] != seen[37:74]


def test_the_same_command_twice_gives_the_same_bits(tmp_path: Path) -> None:
    noisy = ToyTask(config=ToyConfig(dropout=0.3))
    run(tmp_path / "a", settings(), noisy)
    torch.rand(17)  # whatever else the process did
    run(tmp_path / "b", settings(num_workers=1), noisy)
    run(tmp_path / "c", settings(seed=1), noisy)
    assert curve(tmp_path / "a") == curve(tmp_path / "b") != curve(tmp_path / "c")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_looking_at_held_out_data_leaves_training_alone(tmp_path: Path) -> None:
    noisy = ToyTask(config=ToyConfig(dropout=0.3))
    often = settings(ema_decay=None, validate_every=1, preview_every=1, save_every=1)
    run(tmp_path / "often", often, noisy)
    never = settings(ema_decay=None, validate_samples=0, save_every=100)
    run(tmp_path / "never", never, noisy)
    assert same(weights(tmp_path / "often"), weights(tmp_path / "never"))
    assert not any("held_out/loss" in line for line in curve(tmp_path / "never"))


def test_bfloat16_trains_nearly_the_same(tmp_path: Path) -> None:
    run(tmp_path / "long", settings())
    run(tmp_path / "short", settings(precision="bfloat16"))
    long, short = curve(tmp_path / "long"), curve(tmp_path / "short")
    assert long != short
    assert short[0]["loss"] == pytest.approx(long[0]["loss"], rel=0.05)
    assert all(t.dtype == torch.float32 for t in weights(tmp_path / "short").values())


def test_the_last_few_checkpoints_and_the_best_stay(tmp_path: Path) -> None:
    result = run(tmp_path, settings(steps=40, save_every=4, validate_every=4, keep_last=2))
    kept = [steps.step_of(path) for path in steps.list_steps(tmp_path)]
    losses = {
        line["step"]: line["held_out/loss"] for line in curve(tmp_path) if "held_out/loss" in line
    }
    best = min(losses, key=losses.__getitem__)
    assert kept == sorted({best, 36, 40})
    assert steps.step_of(result.best) == best


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run(tmp_path, settings())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "step" in str(path)}
    metrics = curve(tmp_path)
    result = run(tmp_path, settings())
    assert result.step == 12 and result.checkpoint == tmp_path / "step-00000012"
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if "step" in str(p)} == before
    assert curve(tmp_path) == metrics


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    run(tmp_path, settings(), run_config={"data": "numbers", "out": "here"})
    with pytest.raises(ConfigError) as refused:
        run(
            tmp_path,
            settings(batch_size=12, optim=OptimConfig(lr=1.0)),
            ToyTask(config=ToyConfig(width=9)),
            run_config={"data": "letters", "out": "there"},
        )
    message = str(refused.value)
    assert "train.batch_size: 6 then, 12 now" in message
    assert "train.optim.lr: 0.01 then, 1.0 now" in message
    assert "model.width: 8 then, 9 now" in message
    assert "config.data: 'numbers' then, 'letters' now" in message
    assert "out:" not in message and "another folder" in message


def test_cadences_may_change_and_what_is_allowed(tmp_path: Path) -> None:
    run(tmp_path, settings())
    run(tmp_path, settings(log_every=3, save_every=7, micro_batches=2, keep_last=1))
    with pytest.raises(ConfigError, match=r"train\.steps: 12 then, 14 now"):
        run(tmp_path, settings(steps=14))
    assert run(tmp_path, settings(steps=14), allow_change=("steps",)).step == 14


def test_running_out_of_memory_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(ToyTask, "loss", full)
    with pytest.raises(OutOfMemoryError, match=r"20\.00 GiB.*micro_batches \(now 1\).*\(now 6\)"):
        run(tmp_path, settings())


def test_an_error_of_the_code_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(ToyTask, "loss", wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(tmp_path, settings())


def test_without_held_out_data_nothing_is_looked_at(tmp_path: Path) -> None:
    result = train(
        ToyTask(), settings(), train_source=ToySource(), held_out_source=None, out=tmp_path
    )
    assert result.held_out is None and result.best == result.checkpoint
    assert steps.read_run(result.checkpoint)["held_out"] is None


def test_a_tracker_that_raises_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import accelerate.tracking

    class Broken:
        requires_logging_directory = False

        def __init__(self, name: str) -> None: ...

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, float], step: int) -> None:
            raise ConnectionError("gone")

        def finish(self) -> None:
            raise ConnectionError("gone")

    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    named = type("Named", (), {"value": "wandb"})
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [named])
    assert run(tmp_path, settings(tracker="wandb")).step == 12
    assert [record.message for record in caplog.records] == [
        "tracker wandb failed, training goes on: gone"
    ]
    with pytest.raises(ConfigError, match=r"'clearml' is not installed.*installed are: wandb"):
        run(tmp_path / "other", settings(tracker="clearml"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 5, "micro_batches": 2}, "no multiple"),
        ({"keep_last": 0}, "keep_last"),
        ({"validate_every": -1}, "validate_every"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**wrong)


def test_times_are_written_for_people() -> None:
    assert [tracking.duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 90_000)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "59 min 59 s",
        "1 h 00 min",
        "25 h 00 min",
    ]


def test_the_loop_offers_what_scripts_need() -> None:
    assert set(loop.__all__) == {"TrainConfig", "TrainResult", "train"}
