"""Tar archives: samples by their place, whatever else is in them, from here or over http."""

import functools
import http.server
import io
import json
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalle.data import remote
from dalle.data.pictures import Pictures
from dalle.data.sources import open_source
from dalle.data.tar_members import members
from dalle.errors import DataError, InputError
from tests.data.formats import tar


def png(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def pair(key: str, caption: str = "a caption", colour: str = "red") -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(colour)), (f"{key}.txt", caption.encode())]


def rows(place: Path | str) -> list[tuple[str, tuple[str, ...]]]:
    source = open_source(place)
    assert isinstance(source, Pictures)
    return [(source.key(i), source.captions(i)) for i in range(len(source))]


def keys(place: Path | str) -> list[str]:
    return [key.partition("/")[2] for key, _ in rows(place)]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_archive_is_read(kind: int, tmp_path: Path) -> None:
    long = "folder/" * 30 + "x" * 90 if kind != tarfile.USTAR_FORMAT else "f" * 80 + "/" + "x" * 80
    names = ["000000", "./sub/000001", "ünï 日本", long]
    tar(tmp_path / "a.tar", [m for i, n in enumerate(names) for m in pair(n, str(i))], kind=kind)
    expected = [name.removeprefix("./") for name in names]
    assert rows(tmp_path / "a.tar") == [
        (f"a.tar/{name}", (str(i),)) for i, name in enumerate(expected)
    ]
    with tarfile.open(tmp_path / "a.tar") as archive:
        theirs = [(m.name, m.offset_data, m.size) for m in archive]
    with (tmp_path / "a.tar").open("rb") as stream:
        size = (tmp_path / "a.tar").stat().st_size
        ours = [(m.name, m.offset, m.size) for m in members(stream, size=size)]
    assert ours == theirs


def test_what_is_no_pair_is_left_out_and_counted(tmp_path: Path) -> None:
    tar(
        tmp_path / "a.tar",
        [
            ("1.png", png()),
            ("2.txt", b"no picture"),
            ("3.png", png()),  # not beside its caption
            ("4.png", png()),
            ("3.txt", b"apart"),
            ("4.txt", b" \n"),
            *pair("5", "first"),
            *pair("5", "again", "blue"),
            ("._5.png", b"left-over"),
            ("__MACOSX/5.png", b"left-over"),
            ("noextension", b"?"),
            ("5.cls", b"7"),
        ],
    )
    source = open_source(tmp_path / "a.tar")
    assert isinstance(source, Pictures)
    assert rows(tmp_path / "a.tar") == [("a.tar/3", ("apart",)), ("a.tar/5", ("first",))]
    assert source[1].image.getpixel((0, 0)) == (255, 0, 0)
    report = source.report
    assert (report.no_caption, report.no_picture, report.empty) == (1, 1, 1)
    assert (report.repeated, report.other_members) == (2, 1)


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (self.path,)


def test_nothing_is_executed_and_nothing_is_extracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    canary = tmp_path / "canary"
    poison = pickle.dumps(Canary(str(canary)))
    stream = io.BytesIO()
    np.save(stream, np.array([Canary(str(canary))], dtype=object), allow_pickle=True)
    bad = [(f"1.{suffix}", poison) for suffix in ("pyd", "pkl", "pickle", "pth", "cls", "index")]
    bad += [("1.npy", stream.getvalue()), ("1.npz", stream.getvalue()), ("1.cap", poison)]
    for key in ("../../up", "/tmp/../absolute", str(tmp_path / "absolute")):
        bad += pair(key)
    tar(inside / "a.tar", [*pair("1"), *bad])
    before = sorted(tmp_path.rglob("*"))
    source = open_source("a.tar")
    assert [source[i].captions for i in range(len(source))] == [("a caption",)] * 4
    assert sorted(tmp_path.rglob("*")) == before
    assert not canary.exists()
    assert not Path("/tmp/absolute.png").exists()
    pickle.loads(poison)
    assert canary.exists()  # it does bite


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S"])
def test_links_and_devices_are_no_pictures(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in [*pair("1"), ("2.png", b""), ("2.txt", b"link"), *pair("3")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if not data:
                info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info, io.BytesIO(data))
    assert keys(tmp_path / "a.tar") == ["1", "3"]


def test_sparse_files_are_no_pictures(tmp_path: Path) -> None:
    """Their bytes begin with a map of where the holes are."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in [*pair("a"), *pair("b")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if name == "a.png":
                info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
            archive.addfile(info, io.BytesIO(data))
    assert keys(path) == ["b"]


def test_damage_ends_an_archive_and_not_the_others(tmp_path: Path) -> None:
    tar(tmp_path / "whole.tar", [m for i in range(4) for m in pair(str(i))])
    data = (tmp_path / "whole.tar").read_bytes()
    third = data.index(b"3.png")
    for name, cut in (("a.tar", data[: third + 520]), ("b.tar", data[: third + 100])):
        (tmp_path / name).write_bytes(cut)
    flipped = data[:third] + b"X" + data[third + 1 :]
    huge = data[: third + 124] + b"\x80" + b"\x7f" * 11 + data[third + 136 :]
    for name, some in (
        ("c.tar", flipped),
        ("d.tar", huge),
        ("e.tar", b""),
        ("f.tar", b"<p>" * 999),
    ):
        (tmp_path / name).write_bytes(some)
    (tmp_path / "g.tar").symlink_to("nowhere.tar")
    source = open_source(tmp_path)
    assert isinstance(source, Pictures)
    assert len(source) == 3 * 4 + 4
    assert all(source[i].captions for i in range(len(source)))
    assert source.report.unreadable == 7
    told = [problem.split(": ", 1) for problem in source.report.problems]
    assert [name for name, _ in told] == [f"'{letter}.tar'" for letter in "abcdefg"]
    assert "cut off in '3.png'" in told[0][1]
    assert "no tar archive" in told[5][1]
    for name in ("e.tar", "f.tar"):
        with pytest.raises(DataError, match="no image-text pairs found"):
            open_source(tmp_path / name)
    (tmp_path / "a.tgz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match="compressed; unpack it"):
        open_source(tmp_path / "a.tgz")


def test_names_and_texts_without_end_take_no_memory(tmp_path: Path) -> None:
    many = bytes(50 * 2**20)
    members = [("1.png", many), ("1.txt", many), *pair("2"), ("n" * 2**21, b"")]
    tar(tmp_path / "a.tar", members, kind=tarfile.GNU_FORMAT)
    source = open_source(tmp_path / "a.tar", keep_empty=True)
    assert isinstance(source, Pictures)
    assert len(source) == 2
    with pytest.raises(DataError, match="a picture of 52428800 bytes"):
        source[0]
    assert source.report.problems[0].startswith("'a.tar': a name of 20971")


def test_an_archive_that_changed_is_told(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", pair("1"))
    source = open_source(tmp_path / "a.tar")
    os.truncate(tmp_path / "a.tar", 520)
    with pytest.raises(DataError, match="became shorter"):
        source[0]


class Server(http.server.SimpleHTTPRequestHandler):
    """Files, and parts of files; the first answers of `failures` are errors."""

    asked: list[tuple[str, str | None]]
    failures: list[int]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append((self.path, asked))
        if self.failures:
            self.send_error(self.failures.pop())
            return
        if asked is None:
            super().do_GET()
            return
        start, end = map(int, asked.removeprefix("bytes=").split("-"))
        data = Path(self.translate_path(self.path)).read_bytes()[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.0)
    Server.asked, Server.failures = [], []
    (tmp_path / "www").mkdir()
    handler = functools.partial(Server, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_archives_over_http_are_gone_through_once(server: str, tmp_path: Path) -> None:
    for n in range(2):
        pairs = [pair(f"{n}{i}", f"{n} {i}") for i in range(3)]
        tar(tmp_path / "www" / f"{n}.tar", [member for some in pairs for member in some])
    spec = f"{server}/{{0..1}}.tar"
    first = rows(spec)
    assert [c for _, c in first] == [(f"{n} {i}",) for n in range(2) for i in range(3)]
    whole = sum(part is None for _, part in Server.asked)
    source = open_source(spec)
    assert rows(spec) == first
    assert sum(part is None for _, part in Server.asked) == whole == 2
    Server.failures = [503, 500]
    assert source[4].image.getpixel((0, 0)) == (255, 0, 0)
    Server.failures = [503] * 3
    with pytest.raises(DataError, match=r"1\.tar' cannot be read: HTTP Error 503"):
        source[4]
    # Another file under the same name is gone through again.
    tar(tmp_path / "www" / "1.tar", pair("new", "new") * 20)
    assert rows(spec)[-1] == ("1.tar/new", ("new",))


def test_an_archive_that_is_not_there_ends_the_run(server: str) -> None:
    with pytest.raises(DataError, match=r"absent\.tar' cannot be read: HTTP Error 404"):
        open_source(f"{server}/absent.tar")


def test_a_listing_that_is_kept_is_json(server: str, tmp_path: Path) -> None:
    tar(tmp_path / "www" / "0.tar", pair("1"))
    open_source(f"{server}/0.tar")
    [kept] = (tmp_path / "cache" / "dalle" / "tars").iterdir()
    assert json.loads(kept.read_text())["samples"][0]["key"] == "1"
