"""The same captioned pictures written in every format that a data set may have."""

import csv
import io
import itertools
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

Pair = tuple[bytes, tuple[str, str]]
"""The bytes of a picture file, and two captions."""
Write = Callable[[Path, Sequence[Pair]], str]
"""Pairs into a new folder; what `open_source` is to be given."""


def extension(data: bytes) -> str:
    """Of a PNG, a WebP or a JPEG."""
    return "png" if data[:4] == b"\x89PNG" else "webp" if data[8:12] == b"WEBP" else "jpg"


def name(index: int, data: bytes) -> str:
    return f"pictures/{index % 3}/{index:05}.{extension(data)}"


def lay_down(folder: Path, pairs: Sequence[Pair]) -> None:
    for index, (data, _) in enumerate(pairs):
        path = folder / name(index, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def beside(folder: Path, pairs: Sequence[Pair]) -> str:
    lay_down(folder, pairs)
    for index, (data, captions) in enumerate(pairs):
        text = (folder / name(index, data)).with_suffix(".txt")
        text.write_text("\n".join(captions), encoding="utf-8")
    return str(folder)


def json_lines(folder: Path, pairs: Sequence[Pair]) -> str:
    lay_down(folder, pairs)
    rows = [{"file_name": name(i, data), "text": list(c)} for i, (data, c) in enumerate(pairs)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder)


def json_list(folder: Path, pairs: Sequence[Pair]) -> str:
    lay_down(folder, pairs)
    rows = [{"picture": name(i, data), "said": list(c)} for i, (data, c) in enumerate(pairs)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return f"{folder / 'rows.json'}?image=picture&caption=said"


def separated(folder: Path, pairs: Sequence[Pair], *, kind: str) -> str:
    lay_down(folder, pairs)
    with (folder / f"rows.{kind}").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter={"csv": ",", "tsv": "\t"}[kind])
        writer.writerow(["path", "one", "id", "two"])
        for index, (data, (one, two)) in enumerate(pairs):
            writer.writerow([name(index, data), one, index, two])
    return f"{folder / f'rows.{kind}'}?caption=one&caption=two"


def comma_separated(folder: Path, pairs: Sequence[Pair]) -> str:
    return separated(folder, pairs, kind="csv")


def tab_separated(folder: Path, pairs: Sequence[Pair]) -> str:
    return separated(folder, pairs, kind="tsv")


def parquet(folder: Path, pairs: Sequence[Pair]) -> str:
    """As users write it: plain bytes, without the features of `datasets`."""
    folder.mkdir(parents=True)
    columns = {"jpg": [data for data, _ in pairs], "caption": [list(c) for _, c in pairs]}
    pq.write_table(pa.table({**columns, "id": list(range(len(pairs)))}), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def parquet_of_names(folder: Path, pairs: Sequence[Pair]) -> str:
    lay_down(folder, pairs)
    names = [name(index, data) for index, (data, _) in enumerate(pairs)]
    table = pa.table({"file_name": names, "captions": [list(c) for _, c in pairs]})
    pq.write_table(table, folder / "metadata.parquet")
    return str(folder)


def coco(folder: Path, pairs: Sequence[Pair]) -> str:
    images: list[dict[str, object]] = []
    notes: list[dict[str, object]] = []
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for index, (data, captions) in enumerate(pairs):
        file = f"{index:012}.{extension(data)}"
        (folder / "val2017" / file).write_bytes(data)
        images.append({"id": 1000 - index, "file_name": file, "width": 1})
        notes += [{"image_id": 1000 - index, "id": len(notes), "caption": c} for c in captions]
    value = {"info": {}, "images": images, "annotations": notes}
    file_ = folder / "annotations" / "captions_val2017.json"
    file_.write_text(json.dumps(value), encoding="utf-8")
    return str(file_)


def saved_dataset(folder: Path, pairs: Sequence[Pair]) -> str:
    kinds = Features({"image": ImageFeature(), "caption": List(Value("string"))})
    pictures = [{"bytes": data, "path": None} for data, _ in pairs]
    rows = {"image": pictures, "caption": [list(c) for _, c in pairs]}
    Dataset.from_dict(rows, features=kinds).save_to_disk(folder)
    return f"hub:{folder}"


def tar(
    path: Path, members: Sequence[tuple[str, bytes]], *, kind: int = tarfile.PAX_FORMAT
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def archives(folder: Path, pairs: Sequence[Pair]) -> str:
    """Three archives of uneven lengths, the captions in their JSON."""
    ends = [0, len(pairs) // 4, len(pairs) // 3, len(pairs)]
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        members = []
        for index, (data, captions) in enumerate(pairs[start:end], start=start):
            fields = json.dumps({"captions": list(captions), "url": "x"}).encode()
            members += [(f"{index:06}.{extension(data)}", data), (f"{index:06}.json", fields)]
        tar(folder / f"train-{number:03}.tar", members)
    return str(folder / "train-{000..002}.tar")


def img2dataset_archives(folder: Path, pairs: Sequence[Pair]) -> str:
    members = []
    for index, (data, captions) in enumerate(pairs):
        members += [
            (f"{index:09}.{extension(data)}", data),
            (f"{index:09}.txt", "\n".join(captions).encode()),
            (f"{index:09}.json", json.dumps({"caption": "unused", "status": "success"}).encode()),
        ]
    tar(folder / "00000.tar", members)
    (folder / "00000_stats.json").write_text('{"successes": 1}')
    pq.write_table(pa.table({"caption": ["unused"]}), folder / "00000.parquet")
    return str(folder)


def img2dataset_files(folder: Path, pairs: Sequence[Pair]) -> str:
    for index, (data, captions) in enumerate(pairs):
        path = folder / "00000" / f"{index:09}.{extension(data)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.with_suffix(".txt").write_text("\n".join(captions), encoding="utf-8")
        path.with_suffix(".json").write_text('{"caption": "unused"}')
    (folder / "00000_stats.json").write_text('{"successes": 1}')
    pq.write_table(pa.table({"caption": ["unused"]}), folder / "00000.parquet")
    return str(folder)


FORMATS: dict[str, Write] = {
    write.__name__: write
    for write in (
        beside,
        json_lines,
        json_list,
        comma_separated,
        tab_separated,
        parquet,
        parquet_of_names,
        coco,
        saved_dataset,
        archives,
        img2dataset_archives,
        img2dataset_files,
    )
}
