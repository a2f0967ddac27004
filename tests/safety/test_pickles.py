"""No place where a file is read opens a pickle, however it is dressed, and the file is named."""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import dalle
from dalle import checkpoint
from dalle.checkpoint import manifest
from dalle.errors import DalleError
from dalle.models.clip_transformers import TransformersReranker
from dalle.sampling.image_prompt import image_prompt
from dalle.sampling.picture import read_metadata
from dalle.training import optimizer_state
from dalle.training.loop import TrainConfig, train
from tests.fakes import tiny_clip, tiny_dalle, tiny_dvae, tiny_text_tokenizer
from tests.models.test_clip_transformers import save_clip
from tests.safety.poison import DRESSES, poisoned
from tests.test_floors import PACKAGE
from tests.toys import Toy, ToyConfig, ToySource, ToyTask

Read = Callable[[Path], object]


def train_toy(out: Path) -> object:
    config = TrainConfig(steps=4, batch_size=4, save_every=2, ema_decay=0.9, device="cpu")
    return train(ToyTask(), config, train_source=ToySource(), held_out_source=None, out=out)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole specimen of each sort of folder."""
    root = tmp_path_factory.mktemp("originals")
    text = tiny_text_tokenizer()
    dalle.Pipeline(
        tiny_dalle(text),
        text_tokenizer=text,
        image_tokenizer=dalle.DvaeTokenizer(tiny_dvae()),
        reranker=dalle.ClipReranker(tiny_clip(text), text),
    ).save(root / "model")
    model = tiny_dvae()
    checkpoint.save_model_folder(
        root / "averaged", kind="dvae", config=model.config, module=model, ema=model
    )
    train_toy(root / "run")
    shutil.rmtree(root / "run" / "step-00000004")  # there is something left to train
    (root / "clip").mkdir()
    save_clip(root / "clip")
    return root


def load_state(folder: Path) -> None:
    for _ in optimizer_state.read_state(folder, Toy(ToyConfig())):
        pass


class Scaler:
    """As torch's, as far as its state goes."""

    def state_dict(self) -> dict[str, float]:
        return {"scale": 1.0}


def load_pipeline(folder: Path) -> object:
    return dalle.load(folder, device="cpu")


PLACES: dict[str, tuple[str, str, Read]] = {
    "config": ("model", "config.json", load_pipeline),
    "weights": ("model", "model.safetensors", load_pipeline),
    "manifest": ("model", "MANIFEST.json", load_pipeline),
    "text tokenizer": ("model", "text_tokenizer.json", load_pipeline),
    "image tokenizer's config": ("model", "image_tokenizer/config.json", load_pipeline),
    "image tokenizer's weights": ("model", "image_tokenizer/model.safetensors", load_pipeline),
    "reranker's weights": ("model", "reranker/model.safetensors", load_pipeline),
    "averaged weights": ("averaged", "ema.safetensors", checkpoint.load_folder),
    "run": ("run", "step-00000002/run.json", train_toy),
    "optimizer": (
        "run",
        "step-00000002/training/optimizer.safetensors",
        train_toy,
    ),
    "weights of a run": ("run", "step-00000002/model.safetensors", train_toy),
    "loss scale": (
        "run",
        "step-00000002/training/scaler.json",
        lambda out: optimizer_state.load_scaler(out / "step-00000002" / "training", Scaler()),
    ),
    "CLIP's config": ("clip", "config.json", TransformersReranker),
    "CLIP's weights": ("clip", "model.safetensors", TransformersReranker),
    "CLIP's tokenizer": ("clip", "tokenizer.json", TransformersReranker),
    "CLIP's processor": ("clip", "preprocessor_config.json", TransformersReranker),
    "picture to begin with": (
        "model",
        "a.png",
        lambda f: image_prompt(f / "a.png", image_size=(8, 8)),
    ),
    "picture of ours": ("model", "a.png", lambda f: read_metadata(f / "a.png")),
}
"""Which original, which of its files is replaced, and who reads it."""

FEW = ("pickle", "pickle-of-text", "torch")
"""Dresses for what takes longer."""
NEIGHBOURS = (
    "pytorch_model.bin",
    "optimizer.pt",
    "training_args.bin",
    "custom_checkpoint_0.pkl",
    "random_states_0.pkl",
    ".metadata",
    "latest",
    "mp_rank_00_model_states.pt",
    "model.pkl",
)
"""What other programs leave beside their models, and open."""


FORBIDDEN = {
    *("pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "subprocess", "code"),
    *("torch.load", "np.load", "os.system", "os.popen", "os.execv", "torch.hub.load"),
    *("eval", "exec", "compile", "__import__", "input"),
    *("load_state", "broadcast_object_list", "all_gather_object", "scatter_object_list"),
}
"""Modules and calls that open pickles or run what they are given."""


def test_nothing_in_the_package_could_unpickle_or_run_a_file() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            used: set[str] = set()
            if isinstance(node, ast.Call):
                used = {ast.unparse(node.func), ast.unparse(node.func).rpartition(".")[2]}
                used -= {"compile", "eval"} if isinstance(node.func, ast.Attribute) else set()
                if "allow_pickle=False" in {ast.unparse(keyword) for keyword in node.keywords}:
                    used.discard("np.load")
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                module = getattr(node, "module", None)
                used = {module} if module else {alias.name for alias in node.names}
            assert not used & FORBIDDEN, f"{path}:{node.lineno}: {used & FORBIDDEN}"


@pytest.mark.parametrize("dress", DRESSES)
def test_each_dress_is_poisonous(tmp_path: Path, dress: str) -> None:
    """Or the tests below would show nothing."""
    mark = tmp_path / "mark"
    DRESSES[dress][1](poisoned(dress, mark))
    assert mark.exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_in_place_of_a_file_is_refused_by_name(
    tmp_path: Path, originals: Path, place: str
) -> None:
    original, name, read = PLACES[place]
    mark = tmp_path / "mark"
    for number, dress in enumerate(FEW if original == "run" else DRESSES):
        folder = shutil.copytree(originals / original, tmp_path / original)
        (folder / name).write_bytes(poisoned(dress, mark))
        agree(folder, name, rewrite=number % 2 == 0)
        with pytest.raises(DalleError) as caught:
            read(folder)
        named = str(folder) if original == "clip" else Path(name).name
        assert named in str(caught.value), dress
        assert not mark.exists(), dress
        shutil.rmtree(folder)


def agree(folder: Path, name: str, *, rewrite: bool) -> None:
    """Have the manifests list what was put there; or take them away, but for that of a step."""
    for path in sorted(folder.rglob(manifest.MANIFEST), reverse=True):
        if rewrite and not name.endswith(manifest.MANIFEST):
            manifest.write_manifest(path.parent)
        elif not rewrite and folder.name != "run" and name != manifest.MANIFEST:
            path.unlink()


def test_pickles_beside_the_files_are_not_even_looked_at(tmp_path: Path, originals: Path) -> None:
    for original, read in (
        ("model", load_pipeline),
        ("run", train_toy),
        ("clip", TransformersReranker),
    ):
        folder = shutil.copytree(originals / original, tmp_path / original)
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            for name in NEIGHBOURS:
                (place / name).write_bytes(poisoned("torch", tmp_path / "mark"))
        read(folder)
    assert not (tmp_path / "mark").exists()


def test_what_a_run_finds_in_its_own_files_is_not_opened_either(
    tmp_path: Path, originals: Path
) -> None:
    """What it goes on writing to: nothing of it is needed, so nothing of it is refused."""
    for dress in FEW:
        folder = shutil.copytree(originals / "run", tmp_path / dress)
        (folder / "logs").mkdir(exist_ok=True)
        for name in ("metrics.jsonl", "bad_samples.jsonl", ".lock", "logs/process-00001.json"):
            (folder / name).write_bytes(poisoned(dress, tmp_path / "mark"))
        train_toy(folder)
    assert not (tmp_path / "mark").exists()
