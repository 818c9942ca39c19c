"""CIFAR-10 in its three forms: whole, damaged and malicious."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from learndyn.errors import InputError
from learndyn.tasks import cifar10
from learndyn.tasks.cifar10 import read_folder
from learndyn.tasks.safe_pickle import read_arrays


def forms(small, folder):
    """Every form in which CIFAR-10 may lie in a folder."""
    small.write_binary(folder / "binary")
    small.write_binary(folder / "archive" / "cifar-10-batches-bin")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        small.write_pickles(folder / f"python{protocol}", protocol)
    small.write_pickles(folder / "archive-py" / "cifar-10-batches-py")
    small.write_npz(folder / "numpy" / "cifar10.npz")
    return sorted(folder.iterdir())


def test_all_forms_of_cifar10_give_the_same_task(tmp_path, colour):
    for folder in forms(colour, tmp_path):
        task = cifar10(str(folder), batch_size=16, augment=False)
        torch.testing.assert_close(task.train.inputs, colour.scaled(), atol=3e-7, rtol=0)
        assert task.train.targets.tolist() == colour.labels.tolist(), folder.name
        assert task.test.targets.tolist() == colour.test_labels.tolist()
        assert torch.equal(task.test.inputs, cifar10(tmp_path / "binary", batch_size=16).test.inputs)


def test_the_last_partial_batch_is_kept_by_default(tmp_path, colour):
    colour.write_npz(tmp_path / "cifar10.npz")
    task = cifar10(tmp_path, batch_size=16)
    assert task.steps_per_epoch == 5 and len(task.batch(4).inputs) == 6
    assert cifar10(tmp_path, batch_size=16, keep_last=False).steps_per_epoch == 4


def test_python_2_wrote_text_as_bytes(tmp_path, colour):
    """The official files: protocol 2 from Python 2, where keys and array data are 8-bit strings; NumPy's old module."""
    colour.write_pickles(tmp_path, protocol=4)
    for name, images, labels in colour.parts():
        (tmp_path / name).write_bytes(python_2_pickle(images.reshape(len(images), -1), labels.tolist()))
    raw = read_folder(tmp_path)
    assert (raw.train_images == colour.images).all() and (raw.test_labels == colour.test_labels).all()


def python_2_pickle(data, labels):
    """Opcodes as Python 2's pickle writes them, put together by hand."""

    def text(s):
        return b"U" + bytes([len(s)]) + s

    def integer(i):
        return b"J" + i.to_bytes(4, "little", signed=True)

    dtype = (
        b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + integer(-1) * 2 + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR(K\x01("
    array += integer(data.shape[0]) + integer(data.shape[1]) + b"t" + dtype + b"\x89"
    array += b"T" + data.size.to_bytes(4, "little") + data.tobytes() + b"tb"
    items = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + items + b"u."


@pytest.mark.parametrize("newer, older", [("python", "numpy"), ("binary", "python")])
def test_the_official_forms_come_first(tmp_path, colour, newer, older):
    write = {"binary": colour.write_binary, "python": colour.write_pickles}
    write[newer](tmp_path)
    if older == "numpy":
        (tmp_path / "cifar10.npz").write_bytes(b"broken")
    else:
        (tmp_path / "data_batch_1").write_bytes(b"broken")
    assert (read_folder(tmp_path).train_images == colour.images).all()


def test_a_folder_without_cifar10_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        InputError, match=r"no CIFAR-10 in .*data_batch_1.bin, data_batch_1 .*cifar10.npz; give the folder"
    ):
        cifar10(tmp_path)
    with pytest.raises(InputError, match="no CIFAR-10 in .*missing"):
        cifar10(tmp_path / "missing")


def test_a_lacking_file_is_named(tmp_path, colour):
    colour.write_binary(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"lacks data_batch_3.bin, test_batch.bin; unpack"):
        cifar10(tmp_path)


@pytest.mark.parametrize("cut", [0, 3072, 5000])
def test_a_truncated_binary_file_is_refused(tmp_path, colour, cut):
    colour.write_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=f"data_batch_2.bin has {cut} bytes, which is no multiple of 3073"):
        cifar10(tmp_path)


def test_a_label_out_of_range_is_refused(tmp_path, colour):
    colour.write_binary(tmp_path)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(InputError, match="test labels reach from 0 to 10; with 10 classes"):
        cifar10(tmp_path)


class Touch:
    """Unpickled the ordinary way, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Call:
    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, colour, protocol):
    colour.write_pickles(tmp_path)
    trap, victim = tmp_path / "data_batch_4", tmp_path / "victim"
    trap.write_bytes(pickle.dumps({b"data": Touch(victim), b"labels": []}, protocol))
    with pytest.raises(InputError, match=r"data_batch_4 is refused: it asks for .* only NumPy arrays") as caught:
        cifar10(tmp_path, batch_size=16)
    assert not victim.exists()
    assert "pathlib" in str(caught.value) or "getattr" in str(caught.value)
    pickle.loads(trap.read_bytes())
    assert victim.exists(), "the trap itself must work, or this test shows nothing"


@pytest.mark.parametrize(
    "function, arguments",
    [
        (eval, ("1",)),
        (exec, ("1",)),
        (getattr, ([], "append")),
        (os.system, ("true",)),
        (__import__, ("os",)),
        (np.load, ("x",)),
        (np.fromfile, ("x",)),
        (io.open, ("x",)),
        (bytearray, (3,)),
        (complex, (1, 2)),
        (set, ([1],)),
    ],
)
def test_every_other_global_is_refused_by_name(tmp_path, function, arguments):
    path = tmp_path / "file"
    path.write_bytes(pickle.dumps(Call(function, *arguments), 2))
    with pytest.raises(InputError, match=rf"asks for [\w.]+\.{function.__name__}, and only NumPy arrays"):
        read_arrays(path)


@pytest.mark.parametrize("name", [b"cnumpy\nload\n.", b"cnumpy.core.multiarray\nfrombuffer\n.", b"c_codecs\nlookup\n."])
def test_neighbours_of_the_admitted_names_are_refused(tmp_path, name):
    (tmp_path / "file").write_bytes(name)
    with pytest.raises(InputError, match="asks for"):
        read_arrays(tmp_path / "file")


def test_a_dotted_name_does_not_lead_out_of_an_admitted_one(tmp_path):
    (tmp_path / "file").write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(InputError, match="asks for numpy.ndarray.tofile"):
        read_arrays(tmp_path / "file")


def test_persistent_and_extension_ids_are_refused(tmp_path):
    for content in (b"Pname\n.", b"\x82\x01."):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a pickle"):
            read_arrays(tmp_path / "file")


def test_plain_contents_come_back(tmp_path):
    content = {"a": [1, 2.5, None, True, "x", b"y", (1, 2)], "b": np.arange(6.0).reshape(2, 3), 3: {"c": -1}}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "file").write_bytes(pickle.dumps(content, protocol))
        read = read_arrays(tmp_path / "file")
        assert read["a"] == content["a"] and (read["b"] == content["b"]).all() and read[3] == {"c": -1}


def test_every_truncation_of_a_pickle_is_refused(tmp_path):
    whole = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, 2)
    for cut in (*range(120), len(whole) // 2, *range(len(whole) - 60, len(whole))):
        (tmp_path / "file").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="cannot be read as a pickle"):
            read_arrays(tmp_path / "file")


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "no entry 'data'"),
        ({b"labels": [1]}, "no entry 'data' of uint8"),
        ({b"data": np.zeros((1, 3072)), b"labels": [1]}, "no entry 'data' of uint8"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}, "no entry 'data' of uint8"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "no entry 'labels', a list of 2 classes"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["1"]}, "no entry 'labels'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [1]}, "no entry 'labels'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10**30]}, "no entry 'labels'"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, colour, content, message):
    colour.write_pickles(tmp_path)
    (tmp_path / "data_batch_5").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(InputError, match=message):
        cifar10(tmp_path)


def test_an_npz_of_other_images_is_no_cifar10(tmp_path, grey):
    grey.write_npz(tmp_path / "cifar10.npz")
    with pytest.raises(InputError, match=r"\(70, 1, 9, 7\); CIFAR-10 has uint8 \(n, 3, 32, 32\)"):
        cifar10(tmp_path)


def test_real_cifar10(real_data):
    task = cifar10(real_data("cifar10.npz").parent)
    assert task.train.inputs.shape == (50_000, 3, 32, 32) and task.steps_per_epoch == 391
    assert torch.bincount(task.train.targets).tolist() == [5000] * 10
    torch.testing.assert_close(task.train.inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(task.train.inputs.var((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    assert task.batch(390).inputs.shape == (80, 3, 32, 32)
