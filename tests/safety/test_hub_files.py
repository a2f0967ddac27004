"""A hub that lies: only tables and tensors are fetched, into the cache, and checked as ever."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dalle import checkpoint
from tests.fakes import tiny_dvae
from tests.safety.poison import poisoned

COMMIT = "0" * 40
CODE = ("model.pkl", "pytorch_model.bin", "evil.py", "a.pt", ".metadata", "training/optimizer.pt")
NAMES = (
    "../../../../../../../evil.json",
    "/tmp/evil.json",
    "..\\..\\evil.json",
    "a/../../evil.json",
)
LOAD = """
import sys
from dalle.cli import main
for name in sys.argv[1:]:
    print(name, main(["inspect", name]), file=sys.stderr)
"""


class Hub(BaseHTTPRequestHandler):
    """What of the hub's protocol a download needs."""

    repositories: dict[str, dict[str, bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        self.asked.append(self.path)
        name = "/".join(self.path.removeprefix("/api/models").split("/")[1:3])
        files = self.repositories.get(name)
        if files is None:
            data = b""
        elif self.path.startswith("/api/models/"):
            about = _tree(files) if "/tree/" in self.path else _about(name, files)
            data = json.dumps(about).encode()
        else:
            data = files.get(self.path.partition(f"/resolve/{COMMIT}/")[2], b"")
        self.send_response(200 if data else 404)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
        for name, data in files.items()
    ]


def _about(name: str, files: dict[str, bytes]) -> dict[str, object]:
    return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Its address; `me/whole` is a model folder."""
    model = tiny_dvae()
    folder = checkpoint.save_model_folder(
        tmp_path / "original", kind="dvae", config=model.config, module=model
    )
    Hub.repositories = {"me/whole": {path.name: path.read_bytes() for path in folder.iterdir()}}
    Hub.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_a_hub_offers_is_taken_with_care(hub: str, tmp_path: Path) -> None:
    whole, mark, cache = Hub.repositories["me/whole"], tmp_path / "mark", tmp_path / "a/b/c/cache"
    Hub.repositories["me/code"] = whole | {name: poisoned("torch", mark) for name in CODE}
    for number, name in enumerate(NAMES):
        Hub.repositories[f"me/path-{number}"] = whole | {name: b"{}"}
    Hub.repositories["me/changed"] = whole | {
        "model.safetensors": whole["model.safetensors"][:-1] + b"\1"
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    before = _outside(tmp_path, cache)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *Hub.repositories, "me/none"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stderr
    assert "Traceback" not in said and _outside(tmp_path, cache) == before, said
    assert not mark.exists() and not Path("/tmp/evil.json").exists()
    for name in ("whole", "code"):
        assert f"me/{name} 0" in said
    fetched = {path.partition("/resolve/")[2][41:] for path in Hub.asked if "/me/code/" in path}
    assert fetched - {""} == set(whole)
    assert "model.safetensors is damaged" in said and "me/changed 2" in said
    assert "there is no folder me/none" in said and "me/none 2" in said
    asked = {tuple(path.removeprefix("/api/models").split("/")[1:3]) for path in Hub.asked}
    assert asked <= {tuple(name.split("/")) for name in (*Hub.repositories, "me/none")}, asked


def _outside(root: Path, cache: Path) -> set[Path]:
    return {p for p in root.rglob("*") if p.is_file() and not p.is_relative_to(cache)}
