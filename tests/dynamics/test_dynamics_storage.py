"""Trees on disk: what goes in comes out to the bit, and a file that is not whole is refused by name."""

import json
import math
import os

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learndyn import storage
from learndyn.errors import InputError
from learndyn.storage import load_tree, read_json, save_tree, write_json, write_text

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8)


def same(a, b):
    """Equal in kind, order and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from((*DTYPES, torch.bool)))
    count = math.prod(shape)
    if dtype == torch.bool:
        return torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count))).bool().reshape(shape)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = draw(st.binary(min_size=count * size, max_size=count * size))  # any bits: nan payloads, infinities, -0
    return torch.frombuffer(bytearray(raw or b"\0" * size), dtype=dtype)[:count].clone().reshape(shape)


LEAVES = st.one_of(tensors(), st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(-3, 9)), inner, max_size=4),
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_trees_come_back_as_they_were(tmp_path, tree):
    path = tmp_path / "tree.safetensors"
    save_tree(path, tree)
    assert same(load_tree(path), tree)


@pytest.mark.parametrize(
    "tree",
    [
        {1: torch.zeros(2), "1": torch.ones(2)},
        {"a/b": torch.zeros(2), "a": {"b": torch.ones(2)}},
        [{"0": torch.zeros(1)}, {"0": torch.ones(1)}],
        {"": torch.zeros(1), "/": torch.ones(1), 'é∂\n"\\': torch.ones(2)},
    ],
)
def test_tensors_do_not_take_each_others_names(tmp_path, tree):
    save_tree(tmp_path / "tree", tree)
    assert same(load_tree(tmp_path / "tree"), tree)


def test_odd_tensors(tmp_path):
    """Shared memory, views with holes, expanded, transposed, empty, without dimensions, with gradient."""
    base = torch.arange(12.0).reshape(3, 4)
    tree = {
        "shared": [base, base, base[1], base.flatten()],
        "views": (base.T, base[:, ::2], base[0, :1].expand(5), base[::2]),
        "empty": (torch.empty(0), torch.empty(2, 0, 3, dtype=torch.int32)),
        "scalar": torch.tensor(3.5, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(base[:1]),
        "special": torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324], dtype=torch.float64),
    }
    save_tree(tmp_path / "tree", tree)
    again = load_tree(tmp_path / "tree")
    assert not again["parameter"].requires_grad
    tree["parameter"] = tree["parameter"].detach()
    assert same(again, tree)
    again["shared"][0].zero_()
    assert torch.equal(again["shared"][1], base)  # no longer shared


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, -0.0, math.inf, -math.inf, 1e308, 2.0**-1074])
def test_floats_are_exact(tmp_path, value):
    save_tree(tmp_path / "tree", [value])
    (again,) = load_tree(tmp_path / "tree")
    assert again.hex() == value.hex()


@pytest.mark.parametrize("odd", [object(), {1, 2}, b"bytes", 1j, len])
def test_what_cannot_be_stored_is_named(tmp_path, odd):
    with pytest.raises(InputError, match=f"/state/0 is a {type(odd).__name__}, which cannot be stored"):
        save_tree(tmp_path / "tree", {"state": [odd]})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small():
    weights = {"w": torch.arange(5.0).double(), "n": torch.tensor(4)}
    return {"step": 3, "time": 0.1, "model": weights, "e": torch.empty(0, 2)}


@pytest.fixture(scope="module")
def written(tmp_path_factory, small):
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    save_tree(path, small)
    return path.read_bytes()


def test_a_truncated_file_is_refused_at_every_length(tmp_path, written):
    path = tmp_path / "cut.safetensors"
    for length in [*range(0, len(written) - 40, 7), *range(len(written) - 40, len(written))]:
        path.write_bytes(written[:length])
        with pytest.raises(InputError, match="cut.safetensors is missing or damaged"):
            load_tree(path)
    path.write_bytes(written + b"\0")
    with pytest.raises(InputError, match="cut.safetensors"):
        load_tree(path)


def loads_as(path, content, tree):
    """Refused by name, or the same in every bit: some bytes, such as the padding of the header, mean nothing."""
    path.write_bytes(content)
    try:
        return same(load_tree(path), tree)
    except InputError as error:
        assert str(path) in str(error)
        return None


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_anywhere_is_noticed(tmp_path, written, small, data):
    place = data.draw(st.integers(0, len(written) - 1))
    mask = data.draw(st.integers(1, 255))
    content = bytearray(written)
    content[place] ^= mask
    assert loads_as(tmp_path / "altered.safetensors", bytes(content), small) in (None, True)


def test_a_flipped_bit_in_a_tensor_is_refused(tmp_path, written, small):
    begin = 8 + int.from_bytes(written[:8], "little")  # a length, a header, then nothing but numbers
    assert len(written) - begin == 6 * 8
    for bit in range(0, 8 * 48, 5):
        content = bytearray(written)
        content[begin + bit // 8] ^= 1 << bit % 8
        assert loads_as(tmp_path / "altered.safetensors", bytes(content), small) is None


@pytest.mark.parametrize("lost", [b'"digest"', b'"structure"', b'"format"'])
def test_a_header_that_lost_a_name_is_refused(tmp_path, written, small, lost):
    assert written.count(lost) == 1
    content = written.replace(lost, b'"x' + lost[2:])
    assert loads_as(tmp_path / "altered.safetensors", content, small) is None


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"w": torch.ones(2)}, path)
    with pytest.raises(InputError, match=r"weights.safetensors was not written by learndyn \(format None\)"):
        load_tree(path)
    safetensors.torch.save_file({"w": torch.ones(2)}, path, {"format": "learndyn-0", "structure": "{}", "digest": ""})
    with pytest.raises(InputError, match=r"format 'learndyn-0'\); expected 'learndyn-1'"):
        load_tree(path)
    torch.save({"w": torch.ones(2)}, path)
    with pytest.raises(InputError, match="weights.safetensors is missing or damaged"):
        load_tree(path)
    for absent in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InputError, match="is missing or damaged"):
            load_tree(absent)


def full_disk(*args, **options):
    raise OSError(28, "No space left on device")


def fail_half_way(tensors, path, header):
    path.write_bytes(b"half of a file")
    full_disk()


class Nth:
    """Fail at one call and pass the others on."""

    def __init__(self, function, failing):
        self.function, self.left = function, failing

    def __call__(self, *args):
        self.left -= 1
        return full_disk() if self.left == 0 else self.function(*args)


@pytest.mark.parametrize("stage", ["write", "flush", "rename"])
@pytest.mark.parametrize("before", [None, {"old": torch.ones(3)}])
def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch, stage, before):
    path = tmp_path / "folder" / "000005.safetensors"
    if before is not None:
        save_tree(path, before)
    with monkeypatch.context() as broken:
        if stage == "write":
            broken.setattr(safetensors.torch, "save_file", fail_half_way)
        elif stage == "flush":
            broken.setattr(os, "fsync", full_disk)
        else:
            broken.setattr(os, "replace", full_disk)
        with pytest.raises(InputError, match=r"Cannot write .*000005.safetensors: No space left on device. Make"):
            save_tree(path, {"new": torch.zeros(3)})
    assert [p.name for p in path.parent.iterdir()] == ([] if before is None else [path.name])
    if before is not None:
        assert same(load_tree(path), before)
    save_tree(path, {"new": torch.zeros(3)})
    assert same(load_tree(path), {"new": torch.zeros(3)})


def test_a_folder_that_cannot_be_flushed_still_holds_one_whole_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    save_tree(path, {"old": 1})
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", Nth(os.fsync, 2))  # the file's, then the folder's
        with pytest.raises(InputError, match="Cannot write"):
            save_tree(path, {"new": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert load_tree(path) in ({"old": 1}, {"new": 2})


def test_the_file_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    """Otherwise a power cut could leave the name with an empty file."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    save_tree(tmp_path / "state", {"step": 1})
    assert calls == ["fsync", "replace", "fsync"]


def test_folders_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="Cannot write .*file/state"):
        save_tree(tmp_path / "file" / "state", {"step": 1})
    with pytest.raises(InputError, match="Cannot write .*file/note.txt"):
        write_text(tmp_path / "file" / "note.txt", "x")


def test_json_is_strict_and_readable(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"a": [1.5, math.nan, math.inf], "b": (None, True), "c": {"ü": -math.inf}})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1.5, None, None], "b": [None, True], "c": {"ü": None}}
    assert read_json(path)["a"][0] == 1.5
    path.write_text("{", encoding="utf-8")
    for broken in (path, tmp_path / "absent.json"):
        with pytest.raises(InputError, match=f"{broken.name} cannot be read"):
            read_json(broken)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="numbers.json cannot be read"):
        read_json(path)


def test_a_file_says_which_format_it_has(written):
    assert storage.FORMAT == "learndyn-1" and b'"format":"learndyn-1"' in written
