"""Generation by several processes: the files are those of one, and a fault of one ends all."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dalle.cli import main
from dalle.errors import DalleError, InputError
from dalle.launched import joined
from dalle.sampling import work
from dalle.sampling.launches import LaunchShape
from dalle.sampling.load import load
from dalle.sampling.output import save_results
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.request import Request
from dalle.sampling.rerank import ClipReranker
from dalle.tokenizers.image import DvaeTokenizer
from tests.fakes import tiny_clip, tiny_dalle, tiny_dvae, tiny_text_tokenizer
from tests.training.toy_group import Group

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]
PROMPTS = ["a red cube", "", "a blue circle", "a star", "a red cube", "x", "a green triangle"]
CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "one prompt": (PROMPTS[:1], {"num_samples": 20, "keep": 7, "launch": 4, "seed": 3}),
    "its last launch is short": (PROMPTS[:1], {"num_samples": 13, "keep": 3, "launch": 4}),
    "prompts share launches": (PROMPTS, {"num_samples": 3, "keep": 2, "launch": 8}),
    "one sample each": (PROMPTS, {"launch": 3, "guidance": 2.0}),
    "less than processes": (PROMPTS[:1], {"num_samples": 2, "launch": 32}),
    "the model ranks": (PROMPTS[:2], {"num_samples": 9, "launch": 2, "rank_by": "log_prob"}),
    "the rest of a picture": (
        PROMPTS[:2],
        {"num_samples": 6, "launch": 2, "image": Image.new("RGB", (12, 16), "red"), "rect": (1, 1)},
    ),
}
SHARES = {
    "one prompt": {1: [20], 2: [12, 8], 3: [8, 8, 4]},
    "its last launch is short": {1: [13], 2: [8, 5], 3: [5, 4, 4]},
    "less than processes": {1: [2], 2: [2, 0], 3: [2, 0, 0]},
}
"""How many pictures each of so many processes samples."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a CLIP."""
    text = tiny_text_tokenizer()
    model = Pipeline(
        tiny_dalle(text),
        text_tokenizer=text,
        image_tokenizer=DvaeTokenizer(tiny_dvae()),
        reranker=ClipReranker(tiny_clip(text), text),
    )
    return model.save(tmp_path_factory.mktemp("saved") / "model")


def counted(sampled: Counter[str], case: str) -> Callable[..., Any]:
    """`sample_codes`, counting what this process samples for a case."""
    real = work.sample_codes

    def sample(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        sampled[case] += len(result.pictures)
        return result

    return sample


def generate_cases(folder: str, out: str) -> int:
    """One process of some: every case in a folder of its own, and what this process did."""
    work.LAUNCHES_AT_ONCE = 2  # so that there are several groups
    real, sampled = work.sample_codes, Counter[str]()
    with joined() as processes:
        model = load(folder, device="cpu", processes=processes)
        for case, (prompts, wishes) in CASES.items():
            work.sample_codes = counted(sampled, case)
            done: list[int] = []
            request = Request(**wishes)
            results = model.generate_each(prompts, request, progress=done.append)
            if processes.is_main:
                save_results(Path(out) / case, results)
                assert sum(done) == model.num_tokens(len(prompts), request), case
            else:
                assert list(results) == [[]] * len(prompts)
            work.sample_codes = real
        shares = processes.gather_values(sampled)
        if processes.is_main:
            for case, by_size in SHARES.items():
                assert [share.get(case, 0) for share in shares] == by_size[processes.size]
    return 0


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(work: Callable[..., int], *arguments: Any, log: Path, size: int) -> tuple[list[int], str]:
    """The exit statuses of the processes by rank, and what they said."""
    group = Group(work, *arguments, log=log, strategy="single", size=size)
    return group.wait(), group.said


def test_the_files_are_those_of_one_process(tmp_path: Path, folder: Path) -> None:
    for size in (1, 2, 3):
        out, log = tmp_path / str(size), tmp_path / f"{size}.log"
        statuses, said = run(generate_cases, str(folder), str(out), log=log, size=size)
        assert statuses == [0] * size, said
    alone = contents(tmp_path / "1")
    assert len([name for name in alone if name.endswith(".png")]) > 50
    assert contents(tmp_path / "2") == alone
    assert contents(tmp_path / "3") == alone


def faulty(fault: str, folder: str, out: str) -> int:
    """One of two processes, of which number 1 has the fault in the second group of prompts."""
    work.LAUNCHES_AT_ONCE = 1
    real, groups = work.sample_codes, 0

    def sample(*args: Any, launch: LaunchShape, **kwargs: Any) -> Any:
        nonlocal groups
        groups += 1
        if os.environ["RANK"] == "1" and groups >= 2:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "terminated":
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "refused":
                raise InputError("no such thing")
            if fault == "broken":
                raise ValueError("a bug of one process")
            if fault == "short" or (fault == "rather short" and launch.size > 2):
                raise torch.OutOfMemoryError(f"no room for {launch.size}")
        return real(*args, launch=launch, **kwargs)

    work.sample_codes = sample
    words = ["generate", *PROMPTS, "--model", folder, "--device", "cpu", "--out", out]
    return main([*words, "--num-samples", "4", "--launch", "4"])


@pytest.mark.parametrize(
    ("fault", "expected", "sentence"),
    [
        ("killed", [9, -signal.SIGKILL], "process 0 of 2 lost process 1 ("),
        ("terminated", [9, 128 + signal.SIGTERM], "process 0 of 2 lost process 1 ("),
        ("refused", [2, 2], "dalle: process 1: no such thing"),
        ("broken", [9, 1], "dalle: process 1: ValueError: a bug of one process"),
        ("short", [6, 6], "dalle: process 1: too little memory to sample 2 pictures at once"),
    ],
)
def test_a_fault_of_one_process_ends_all_and_leaves_whole_files(
    tmp_path: Path, folder: Path, fault: str, expected: list[int], sentence: str
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    statuses, said = run(faulty, fault, str(folder), str(out), log=log, size=2)
    assert statuses == expected, said
    assert sentence in said
    # What came before it: two prompts with their pictures, the sheet and the record.
    names = contents(out)
    assert len([name for name in names if name.startswith(("0000-", "0001-"))]) == 8
    assert set(names) - {name for name in names if name[0] == "0"} == {
        "contact-sheet.png",
        "generation.json",
    }


def test_all_take_half_a_launch_when_one_is_short_of_memory(tmp_path: Path, folder: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    statuses, said = run(faulty, "rather short", str(folder), str(out), log=log, size=2)
    assert statuses == [0, 0], said
    assert said.count("warning: too little memory for 4 pictures at once; trying 2") == 1
    record = (out / "generation.json").read_text()
    assert (record.count('"launch": 4'), record.count('"launch": 2')) == (8, 20)


def test_the_command_under_torchrun(tmp_path: Path, folder: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cube\na blue circle\n")
    words = ["a star", "--prompts", str(prompts), "--model", str(folder), "--device", "cpu"]
    words += ["--num-samples", "12", "--keep", "5", "--launch", "4"]
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
            *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"),
            *("generate.py", *words, "--out", str(tmp_path / "many")),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("15 pictures by 2 processes in") == 1
    assert main(["generate", *words, "--out", str(tmp_path / "one")]) == 0
    assert contents(tmp_path / "many") == contents(tmp_path / "one") != {}


def complete(folder: str) -> int:
    """One of two processes that complete captions."""
    words = ["generate", "a red", "a blue", "a", "--complete-text", "--model", folder]
    return main([*words, "--device", "cpu", "--num-samples", "3"])


def test_captions_are_completed_in_order(tmp_path: Path, folder: Path) -> None:
    said = []
    for size in (1, 2):
        statuses, text = run(complete, str(folder), log=tmp_path / str(size), size=size)
        assert statuses == [0] * size, text
        said.append(text)
    assert said[0] == said[1]
    assert said[0].count("a blue") == 3


def read_another(folders: list[str]) -> int:
    """One of two processes, each with a model of its own."""
    with joined() as processes:
        try:
            load(folders[processes.rank], device="cpu", processes=processes)
        except DalleError as error:
            print(error)
            return error.exit_status
    return 0


def test_all_must_have_read_the_same_model(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    model = load(folder, device="cpu")
    torch.nn.init.zeros_(model.model.image_head.weight)
    model.save(other)
    statuses, said = run(read_another, [str(folder), str(other)], log=tmp_path / "log", size=2)
    assert statuses == [2, 2]
    assert f"process 1: {other} holds another model than on the main process" in said


def test_those_that_have_nothing_to_do_are_told_of(tmp_path: Path, folder: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    statuses, said = run(draw_few, str(folder), str(out), log=log, size=3)
    assert statuses == [0, 0, 0], said
    assert said.count("there are 2 of 4 pictures for 3 processes") == 1


def draw_few(folder: str, out: str) -> int:
    """One of three processes for two launches."""
    words = ["generate", "a", "--model", folder, "--device", "cpu", "--out", out]
    return main([*words, "--num-samples", "8", "--launch", "4"])
