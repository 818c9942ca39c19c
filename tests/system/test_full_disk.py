"""A disk that is full: one sentence, status 2, nothing lost, and on it goes once there is room.

A limit on the size of a file (RLIMIT_FSIZE) makes writes fail in the middle, as a full disk does, at a place that can
be chosen; where the test may mount one, a real file system that is full does it again.
"""

import os
import shutil
import subprocess

import pytest
from runs import assert_same, fingerprints, leftovers, only, words

SNAPSHOT = {"snapshots": 12}


def states(folder):
    return {name: content for name, content in fingerprints(folder).items() if name.startswith(("states", "records"))}


@pytest.mark.parametrize(
    "limit, file",
    [(300, "settings.yaml"), (2000, "000000.safetensors"), (7000, "snapshot.safetensors"), (35_000, "results.nc")],
)
def test_a_file_that_does_not_fit(nursery, reference, tmp_path, limit, file):
    sentence = nursery.run(*words(), cwd=tmp_path, limit=limit, **SNAPSHOT).error()
    assert sentence.startswith("Cannot write") and file in sentence and "File too large" in sentence
    assert not list(tmp_path.rglob("*.tmp")), "a torn file was left, which fills the disk even more"
    again = nursery.run(*words(), cwd=tmp_path, limit=limit, **SNAPSHOT).error()
    assert again == sentence  # it is refused, however often, and never half done
    assert nursery.run(*words(), cwd=tmp_path).status == 0
    assert_same(only(tmp_path), reference())
    assert not leftovers(only(tmp_path))


def test_nothing_that_existed_is_lost(nursery, reference, tmp_path):
    """Interrupted half-way, gone on with on a full disk, gone on with: what was there stays there to the bit."""
    process = nursery.start(*words(), cwd=tmp_path, **SNAPSHOT)
    process.until("records/*/000020.json")
    process.signal()
    process.wait()
    before = states(only(tmp_path))
    assert any(name.endswith("safetensors") for name in before)
    nursery.run(*words(), cwd=tmp_path, limit=2000, **SNAPSHOT).error()
    after = states(only(tmp_path))
    assert {name: after.get(name) for name in before if "/." not in name} == {
        name: content for name, content in before.items() if "/." not in name
    }
    assert nursery.run(*words(), cwd=tmp_path).status == 0
    assert_same(only(tmp_path), reference())


def test_a_report_that_does_not_fit_leaves_the_old_one(nursery, reference, tmp_path):
    folder = tmp_path / "runs" / reference().name
    shutil.copytree(reference(), folder)
    before = fingerprints(folder)
    sentence = nursery.run("report", folder, cwd=tmp_path, limit=1000).error()
    assert "claims.json" in sentence or "report.html" in sentence
    assert fingerprints(folder) == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_system_that_is_full(nursery, reference, tmp_path, workers):
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this root cannot mount a file system")
    try:
        command = words(seeds=2, jobs=workers)
        sentence = nursery.run(*command, cwd=disk, forked=True, **SNAPSHOT).error()
        assert sentence.startswith("Cannot write") and "No space left" in sentence
        kept = states(only(disk))
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        life = nursery.run(*command, cwd=disk, forked=True, **SNAPSHOT)
        assert life.status == 0, life.err
        assert_same(only(disk), reference(seeds=2))
        assert kept
    finally:
        subprocess.run(["umount", disk], check=True)
