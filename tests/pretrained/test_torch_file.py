"""The reader of torch.save's files: the same values as torch's own, all of them within the file."""

import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dalle.errors import CheckpointError, DalleError, InputError
from dalle.pretrained.records import Record
from dalle.pretrained.torch_file import read_torch_file
from tests.pretrained.originals import saved, zip_file


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return alike and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, (list, tuple)):
        alike = type(ours) is type(theirs) and len(ours) == len(theirs)
        return alike and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("zipped", [True, False])
def test_values_are_those_of_torch(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    value = {
        "floats": [torch.arange(5).to(d) for d in (torch.float64, torch.float16, torch.bfloat16)],
        "integers": [torch.arange(5).to(d) for d in (torch.int64, torch.int32, torch.uint8)],
        "flags": torch.tensor([True, False]),
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "repeated": torch.ones(1).expand(7),
        "parameter": nn.Parameter(base, requires_grad=False),
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "state": nn.Linear(2, 3).state_dict(),
        "plain": (None, True, -7, 2**70, 1.5, "ü", b"\x00\xff", [1, (2,)], {3, 4}, frozenset("a")),
        ("a", 1): bytearray(b"x"),
    }
    (path := tmp_path / "value").write_bytes(saved(value, zipped=zipped))
    assert same(read_torch_file(path), torch.load(path, weights_only=False))


def test_tensors_share_their_storage_as_they_did(tmp_path: Path) -> None:
    base = torch.zeros(4)
    (path := tmp_path / "shared").write_bytes(saved({"a": base, "b": base[1:]}))
    read = read_torch_file(path)
    assert read["a"].data_ptr() + 4 == read["b"].data_ptr()


class Callback:
    """Stands for an object of a package that is not installed."""

    def __init__(self) -> None:
        self.best = torch.ones(2)


def test_foreign_objects_become_records(tmp_path: Path) -> None:
    (path := tmp_path / "lightning.ckpt").write_bytes(
        saved({"state_dict": {"w": torch.ones(1)}, "callbacks": {Callback: [Callback()]}})
    )
    [(name, [record])] = read_torch_file(path)["callbacks"].items()
    assert str(name).endswith(".Callback") and isinstance(record, Record)
    assert record.name.endswith(".Callback")
    assert record.state["best"].equal(torch.ones(2))


def _binary(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor_pickle(*, count: int, offset: int = 0, size: int = 4, stride: int = 1) -> bytes:
    """One float tensor over the storage "0"."""
    numbers = [b"J" + struct.pack("<i", n) for n in (count, offset, size, stride)]
    storage = b"(" + _binary("storage") + b"ctorch\nFloatStorage\n" + _binary("0") + _binary("cpu")
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + numbers[0]
        + b"tQ"
        + numbers[1]
        + numbers[2]
        + b"\x85"
        + numbers[3]
        + b"\x85\x89}tR."
    )


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (tensor_pickle(count=2**30), "should hold 4294967296 bytes called '0', and has 16"),
        (tensor_pickle(count=4, size=5), "reaches beyond its 4 numbers"),
        (tensor_pickle(count=4, offset=1), "reaches beyond its 4 numbers"),
        (tensor_pickle(count=4, size=2, stride=4), "reaches beyond its 4 numbers"),
        (tensor_pickle(count=4, size=-1), "shape is none"),
        (tensor_pickle(count=4, stride=-1), "shape is none"),
        (tensor_pickle(count=-1), "without a name or a size"),
        (tensor_pickle(count=4, size=2**30, stride=0), "would be larger than the file"),
        (tensor_pickle(count=4).replace(b"FloatStorage", b"QInt8Storage"), "torch.QInt8Storage"),
        (tensor_pickle(count=4).replace(b"\x01\x00\x00\x000", b"\x01\x00\x00\x001"), "lacks"),
    ],
)
def test_a_tensor_that_is_not_in_the_file_is_refused(
    tmp_path: Path, tensor: bytes, said: str
) -> None:
    good = zip_file(tmp_path / "good", tensor_pickle(count=4), {"0": bytes(16)})
    assert read_torch_file(good).equal(torch.zeros(4))
    with pytest.raises(CheckpointError, match=said):
        read_torch_file(zip_file(tmp_path / "bad", tensor, {"0": bytes(16)}))


def test_tensors_of_which_only_the_names_are_there_are_refused(tmp_path: Path) -> None:
    (path := tmp_path / "plain.pkl").write_bytes(tensor_pickle(count=4))
    with pytest.raises(CheckpointError, match="points to tensors that are not in it"):
        read_torch_file(path)


def test_zips_that_are_not_torchs_are_refused(tmp_path: Path) -> None:
    def refused(said: str, **entries: bytes) -> None:
        path = tmp_path / "odd.pt"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), data)
        with pytest.raises(CheckpointError, match=said):
            read_torch_file(path)

    empty = pickle.dumps({})
    refused("zip with 2 data.pkl", a__data_pkl=empty, b__data_pkl=empty)
    refused("zip with 0 data.pkl", a__weights=b"1")
    refused("TorchScript program", a__data_pkl=empty, a__constants_pkl=empty)
    refused("big-endian", a__data_pkl=empty, a__byteorder=b"big")
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", empty * 9)
    with pytest.raises(CheckpointError, match=r"'a/data\.pkl' is compressed"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data.pkl", empty)
        archive.writestr("a/data.pkl", empty)
    with pytest.raises(CheckpointError, match="two entries have the same name"):
        read_torch_file(path)
    renamed = (
        zip_file(path, empty).read_bytes().replace(b"archive/data.pkl", b"archive/other.pk", 1)
    )
    path.write_bytes(renamed)
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x63.",
        b"\x80\x02r\xff\xff\xff\xff.",  # puts nothing, at a place for which others make room
        b"\x80\x02N" + b"\x85" * 5000 + b"}q\x00h\x00N0(tu.",
        b"\x80\x02}" + b"N" + b"\x85" * 30_000 + b"Ns.",  # a key nested so deep that hashing fails
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.",  # announces 2^56 bytes
        b"\x80\x02(NNNd.",
        b"\x80\x02](NNe0.",
        b"not a pickle",
    ],
)
def test_what_is_no_whole_pickle_is_refused(tmp_path: Path, data: bytes) -> None:
    (path := tmp_path / "damaged.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged\.pt is not read: it "):
        read_torch_file(path)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_torch_file(tmp_path / "none.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_raises_our_errors_only(tmp_path: Path, zipped: bool) -> None:
    whole = saved({"state": nn.Linear(3, 2).state_dict(), "list": [1, (2, "x")]}, zipped=zipped)
    dice = random.Random(0)
    path = tmp_path / "damaged.pt"
    outcomes = set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data if dice.random() < 0.7 else data[: dice.randrange(1, len(data))])
        try:
            read_torch_file(path)
            outcomes.add("read")
        except DalleError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
