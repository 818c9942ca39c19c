"""Files that were damaged behind our back: named, refused, nothing else touched; deleted, they are computed again.

"Computed again" means to the bit: the run that was damaged, mended by deleting the named file, and finished is the same
as one that nothing disturbed.
"""

import random
import re
import shutil

import pytest
import torch
from runs import assert_same, fingerprints, leftovers, only, words

from learndyn.errors import InputError
from learndyn.storage import load_tree, save_tree

SNAPSHOT, SWEEP = "records/seed-0/snapshot.safetensors", "records/seed-0/sweep.safetensors"
OTHER = {"model": "mlp(width=12, depth=1, batch_norm=True)"}


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


def noise(content: bytes) -> bytes:
    return random.Random(0).randbytes(len(content))


def flipped(content: bytes) -> bytes:
    """One bit, which in a state file lies among the weights."""
    place = len(content) * 2 // 3
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


@pytest.fixture(scope="session")
def stopped(nursery, tmp_path_factory):
    """Run directories of the small setting, killed just when a file appears; made once, copied for every test."""
    made = {}

    def at(file, **changes):
        name = f"{file} {sorted(changes.items())}"
        if name not in made:
            place = tmp_path_factory.mktemp("stopped")
            process = nursery.start(*words(**changes), cwd=place, snapshots=4)
            process.until(file)
            process.signal()
            process.wait()
            made[name] = only(place)
            assert list(place.rglob(file))
        return made[name]

    return at


@pytest.fixture
def copied(tmp_path):
    def copy(folder, *without):
        mine = tmp_path / "runs" / folder.name
        shutil.copytree(folder, mine)
        for left in (*mine.rglob(".*.tmp"), *(mine / file for file in without)):
            left.unlink()
        return mine

    return copy


def refused(nursery, folder) -> str:
    """The one sentence; and everything is as it was."""
    before = fingerprints(folder)
    sentence = nursery.run(*words(), cwd=folder.parents[1]).error()
    assert fingerprints(folder) == before
    return sentence


def finished(nursery, folder, whole):
    """The same command now ends where an undisturbed run ends."""
    life = nursery.run(*words(), cwd=folder.parents[1])
    assert life.status == 0, life.err
    assert_same(folder, whole)
    assert not leftovers(folder)


#: file -> where the run stood: when this file had just appeared; or it was finished, but for these files
FILES = {
    SNAPSHOT: "snapshot.safetensors",
    SWEEP: "sweep.safetensors",
    "states/seed-0/000000.safetensors": ("results.nc", "records/seed-0/adjoint.json"),
    "states/seed-0/000020.safetensors": ("results.nc", "records/seed-0/adjoint.json"),
    "records/seed-0/000024.json": ("results.nc",),
    "records/seed-0/adjoint.json": ("results.nc",),
    "environment.json": ("results.nc",),
    "results.nc": (),
}
MENDED_LIKE_ANOTHER = ("states/seed-0/000020.safetensors", "environment.json")  # two seconds each


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_mended_by_deleting_it(nursery, reference, stopped, copied, file):
    place = FILES[file]
    folder = copied(stopped(place)) if isinstance(place, str) else copied(reference(), *place)
    whole, harms = (folder / file).read_bytes(), [half, empty, noise]
    harms += [flipped] if file.endswith("safetensors") else []  # text and HDF5 have no digest
    for harm in harms:
        (folder / file).write_bytes(harm(whole))
        sentence = refused(nursery, folder)
        assert file in sentence and "delete it" in sentence, sentence
    if file not in MENDED_LIKE_ANOTHER:
        (folder / file).unlink()
        finished(nursery, folder, reference())


def test_a_snapshot_of_another_model(nursery, reference, stopped, copied):
    folder = copied(stopped("snapshot.safetensors"))
    shutil.copy(stopped("snapshot.safetensors", **OTHER) / SNAPSHOT, folder / SNAPSHOT)
    sentence = refused(nursery, folder)
    assert SNAPSHOT in sentence and "another model" in sentence and "(12, 6)" in sentence and "(8, 6)" in sentence


def test_a_base_state_of_another_model(nursery, reference, copied):
    file = "states/seed-0/000020.safetensors"
    folder = copied(reference(), *FILES[file])
    shutil.copy(reference(**OTHER) / file, folder / file)
    sentence = refused(nursery, folder)
    assert file in sentence and "another model" in sentence


@pytest.mark.parametrize("step", ["000000", "000020"])
def test_a_file_of_another_kind_in_the_place_of_a_base_state(nursery, reference, stopped, copied, step):
    file = f"states/seed-0/{step}.safetensors"
    folder = copied(reference(), *FILES[file])
    shutil.copy(stopped("snapshot.safetensors") / SNAPSHOT, folder / file)
    assert file in refused(nursery, folder)


@pytest.mark.parametrize("file", [SNAPSHOT, SWEEP])
def test_a_file_of_another_kind_to_go_on_from(nursery, reference, stopped, copied, file):
    folder = copied(stopped(FILES[file]))
    shutil.copy(reference() / "states/seed-0/000000.safetensors", folder / file)
    assert file in refused(nursery, folder)


@pytest.mark.parametrize("name", ["000024", "adjoint"])
def test_a_record_that_is_json_and_nonsense(nursery, reference, copied, name):
    folder, file = copied(reference(), "results.nc"), f"records/seed-0/{name}.json"
    for wrong in (b"{}", b"[1]", b"null", b'{"step": 24, "forks": [], "rows": [{"direction": 7}]}'):
        (folder / file).write_bytes(wrong)
        sentence = refused(nursery, folder)
        assert file in sentence and "delete it" in sentence, sentence


def test_a_record_from_before_the_snapshot_that_is_gone(nursery, reference, stopped, copied):
    """Nothing tells that it was ever there, and nan in its place would be a lie."""
    folder = copied(stopped("000024.json"))
    (folder / "records/seed-0/000000.json").unlink()
    finished(nursery, folder, reference())


@pytest.mark.parametrize("command", ["run", "report"])
def test_the_results_of_another_run(nursery, reference, copied, command):
    folder = copied(reference())
    shutil.copy(reference(**OTHER) / "results.nc", folder)
    spoken = words() if command == "run" else ["report", folder]
    sentence = nursery.run(*spoken, cwd=folder.parents[1]).error()
    assert "results.nc" in sentence and "other settings" in sentence


def test_the_settings(nursery, reference, copied):
    """A page needs them; the command that made the run knows what they were."""
    folder = copied(reference())
    for wrong in (
        b"",
        b"\xff\x00",
        b"- a\n- list\n",
        b"experiment: two-ph",
        b"a: 2020-13-45",
        b"x: [",
        b"experiment: [1]",
    ):
        (folder / "settings.yaml").write_bytes(wrong)
        sentence = nursery.run("report", folder, cwd=folder.parents[1]).error()
        assert "settings.yaml" in sentence or "There is no experiment" in sentence, sentence
    finished(nursery, folder, reference())
    assert (folder / "settings.yaml").read_bytes() == (reference() / "settings.yaml").read_bytes()


def test_the_environment_of_a_finished_run(nursery, reference, copied):
    """It cannot be found out any more, and the page says so instead of what is here now."""
    folder = copied(reference())
    (folder / "environment.json").write_bytes(b'{"torch": ')
    assert "environment.json" in refused(nursery, folder)
    (folder / "environment.json").unlink()
    finished(nursery, folder, reference())
    assert "is lost" in (folder / "environment.json").read_text()


def test_another_environment_is_refused_for_an_unfinished_run_only(nursery, reference, stopped, copied):
    unfinished, done = copied(stopped("snapshot.safetensors")), copied(reference(seeds=2))
    for folder in (unfinished, done):
        text = (folder / "environment.json").read_text()
        (folder / "environment.json").write_text(re.sub(r'"torch": "[^"]*"', '"torch": "1.0"', text))
    sentence = refused(nursery, unfinished)
    assert "torch = '1.0'" in sentence and "--fresh" in sentence
    assert nursery.run(*words(seeds=2), cwd=done.parents[1]).status == 0


def test_fresh_forgets_what_was_there(nursery, reference, stopped, copied):
    folder = copied(stopped("snapshot.safetensors"))
    (folder / "stray").mkdir()
    (folder / SNAPSHOT).write_bytes(b"damaged")
    life = nursery.run(*words(), "--fresh", cwd=folder.parents[1])
    assert life.status == 0 and not (folder / "stray").exists()
    assert_same(folder, reference())


def test_every_bit_and_every_length_of_a_state_file(tmp_path, reference):
    """Truncations, and one flipped bit in every byte: refused, and named. Never another exception, never wrong data.

    A flip in the spaces that fill up a header changes nothing that is stored; it may pass if what is read is the same.
    """
    whole, path = reference() / "states/seed-0/000000.safetensors", tmp_path / "state.safetensors"
    content, right, draw = whole.read_bytes(), load_tree(whole), random.Random(0)
    damaged = [content[:length] for length in {*range(0, 64), *range(0, len(content), 7), len(content) - 1}]
    damaged += [content[:i] + bytes([b ^ 1 << draw.randrange(8)]) + content[i + 1 :] for i, b in enumerate(content)]
    passed = 0
    for wrong in damaged:
        path.write_bytes(wrong)
        try:
            read = load_tree(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert str(read) == str(right)
            passed += 1
    assert passed <= 8


def test_trees_survive_to_the_bit(tmp_path):
    """What is stored comes back as what it was: types of numbers, tuples, keys, shared and strided tensors."""
    shared = torch.arange(12.0).view(3, 4)
    tree = {
        "numbers": [1, -0.0, 1e-320, 0.1, True, None, "text", (), [], {}],
        3: (shared.T, shared[1:], torch.zeros(0, 2), torch.tensor(2**53 + 1), torch.ones(2, dtype=torch.bfloat16)),
    }
    save_tree(tmp_path / "tree", tree)
    found = load_tree(tmp_path / "tree")
    assert str(found["numbers"]) == str(tree["numbers"]) and list(found) == list(tree)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found[3], tree[3]))
    with pytest.raises(InputError, match="cannot be stored"):
        save_tree(tmp_path / "tree", {"a": object()})
    assert load_tree(tmp_path / "tree").keys() == tree.keys()  # the one that stood there is still there
    with pytest.raises(InputError, match="another kind"):
        load_tree(tmp_path / "tree", ("weights",))
    with pytest.raises(InputError, match="000007.safetensors is missing"):
        load_tree(tmp_path / "000007.safetensors")
