"""A run that cannot be lost: however it is killed, the same command goes on and ends with the same bits.

Killed with SIGKILL at random moments and at every kind of moment inside a write, resumed with the plain command, and
compared with a run that nothing disturbed: results, claims, records and base states, bit for bit.
"""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from lives import ENDED_BY_KILL
from runs import assert_same, fingerprints, leftovers, only, words

from learndyn.record import locked, open_record
from learndyn.storage import write_atomically

SETTINGS = {
    "loop": {},
    "batched": {"engine": "vmap", "dtype": "float32", "epsilon": 1e-3, "optimizer": "adamw(lr=1e-2)"},
    "swapped noise": {"perturbation": "noise_swap", "schedule": "milestones(at=(30,))"},
}
TWO = {"seeds": 2, "jobs": 2}  # a process each; what they must end with was made by one process
FAST = {"snapshots": 4, "forked": True}
INTERRUPTED = "\nInterrupted. The same command goes on from here.\n"


def check(place, reference):
    assert_same(only(place), reference)
    assert not leftovers(only(place))


def gone(pid: int) -> bool:
    """Whether no process of this group is left, but for zombies."""
    for stat in (f"/proc/{name}/stat" for name in os.listdir("/proc") if name.isdigit()):
        try:
            state, _, group = open(stat).read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == pid and state != "Z":
            return False
    return True


def soon(true, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


@pytest.mark.parametrize("name", ["loop", "swapped noise"])
def test_killed_at_random_moments(nursery, reference, tmp_path, name):
    draw, lives, life = random.Random(name), 0, None
    while life is None and lives < 60:
        process = nursery.start(*words(**SETTINGS[name]), cwd=tmp_path, snapshots=4)
        life = process.wait(draw.uniform(0.1, 0.5 + 0.1 * lives))
        if life is None:
            process.signal()
            life = process.wait()
            life = None if life.status == ENDED_BY_KILL else life  # it may just have ended by itself
        lives += 1
    assert life.status == 0, life.err
    assert lives > 2
    check(tmp_path, reference(**SETTINGS[name]))


@pytest.mark.parametrize("name, how", [("loop", "torn"), ("loop", "named"), ("batched", "unnamed")])
def test_every_life_killed_in_one_of_its_writes(nursery, reference, tmp_path, name, how):
    """The k-th life dies in its k-th write: all together they die in every kind of file."""
    for k in range(1, 60):
        life = nursery.run(*words(**SETTINGS[name]), cwd=tmp_path, snapshots=12, die=[how, k])
        if life.status != ENDED_BY_KILL:
            break
    assert life.status == 0, life.err
    assert k > 4
    check(tmp_path, reference(**SETTINGS[name]))


@pytest.mark.parametrize("how", ["removing", "removed"])
def test_killed_while_it_removes_the_last_snapshot(nursery, reference, tmp_path, how):
    assert nursery.run(*words(), cwd=tmp_path, snapshots=12, die=[how, 1]).status == ENDED_BY_KILL
    assert nursery.run(*words(), cwd=tmp_path).status == 0
    check(tmp_path, reference())


def test_killed_with_all_its_workers(nursery, reference, tmp_path):
    draw = random.Random(0)
    for moment in (draw.uniform(0.3, 1.0) for _ in range(3)):
        process = nursery.start(*words(**TWO), cwd=tmp_path, **FAST)
        if process.wait(moment) is None:
            process.signal()
            process.wait()
    life = nursery.run(*words(**TWO), cwd=tmp_path, **FAST)
    assert life.status == 0, life.err
    check(tmp_path, reference(seeds=2))


def test_workers_do_not_outlive_a_parent_that_is_killed_alone(nursery, tmp_path):
    process = nursery.start(*words(**TWO | {"steps": 5000, "t1": (5000,)}), cwd=tmp_path, **FAST)
    process.until("snapshot.safetensors")
    process.signal(group=False)
    assert process.wait().status == ENDED_BY_KILL
    assert soon(lambda: gone(process.pid))


def test_a_worker_that_is_killed_alone_gives_one_sentence(nursery, reference, tmp_path):
    process = nursery.start(*words(**TWO), cwd=tmp_path, **FAST)
    process.until("snapshot.safetensors")
    os.kill(process.children()[0], signal.SIGKILL)
    assert "worker" in process.wait().error()
    assert gone(process.pid)
    assert nursery.run(*words(**TWO), cwd=tmp_path, **FAST).status == 0
    check(tmp_path, reference(seeds=2))


@pytest.mark.parametrize("settings", [{}, TWO], ids=["alone", "workers"])
def test_ctrl_c(nursery, reference, tmp_path, settings):
    process = nursery.start(*words(**settings), cwd=tmp_path, **FAST)
    process.until("snapshot.safetensors")
    process.signal(signal.SIGINT)  # to the whole group, as a terminal does
    life = process.wait()
    assert life.status == 130
    assert life.err.endswith(INTERRUPTED) and "Traceback" not in life.err, life.err
    assert soon(lambda: gone(process.pid), 2)
    assert nursery.run(*words(**settings), cwd=tmp_path, **FAST).status == 0
    check(tmp_path, reference(**({"seeds": 2} if settings else {})))


def test_two_processes_in_one_directory(nursery, reference, tmp_path):
    """The second is refused and harms nothing, not even with --fresh; the first does not notice."""
    first = nursery.start(*words(), cwd=tmp_path, snapshots=4)
    first.until("snapshot.safetensors")
    first.signal(signal.SIGSTOP)
    time.sleep(0.05)
    before = fingerprints(only(tmp_path))
    for words_of_second in (words(), [*words(), "--fresh"]):
        sentence = nursery.run(*words_of_second, cwd=tmp_path).error()
        assert "Another process" in sentence and only(tmp_path).name in sentence
        assert fingerprints(only(tmp_path)) == before
    first.signal(signal.SIGCONT)
    assert first.wait().status == 0
    check(tmp_path, reference())


def test_nobody_draws_while_somebody_works(nursery, reference, tmp_path):
    """Who writes holds the lock, so that who comes next may sweep away what was left half written."""
    folder = tmp_path / "runs" / reference().name
    shutil.copytree(reference(), folder)
    left = folder / "figures" / ".growth.svg.7.tmp"
    left.parent.mkdir(exist_ok=True)
    left.write_text("half a figure")
    before = fingerprints(folder)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for command in (words(), ["report", folder]):
            assert "Another process" in nursery.run(*command, cwd=tmp_path).error()
            assert fingerprints(folder) == before
    assert nursery.run("report", folder, cwd=tmp_path).status == 0 and not left.exists()


def test_a_write_that_is_stopped_leaves_nothing(tmp_path):
    """Neither one that is interrupted, nor one whose process was ended while the run goes down with an error."""

    def interrupted(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "alone" / "a.json", interrupted)
    assert not list((tmp_path / "alone").iterdir())
    record = open_record(tmp_path, "two-phase", {"steps": 1})
    with pytest.raises(ZeroDivisionError), locked(record):
        (record.folder / ".b.json.7.tmp").write_text("half")  # by a worker that has been ended
        raise ZeroDivisionError
    assert not list(record.folder.rglob("*.tmp"))


@pytest.mark.slow
def test_the_real_command_with_spawned_workers(reference, tmp_path):
    """No nursery: the installed command, its own workers; Ctrl-C while they are still importing, then to the end."""
    command = [sys.executable, "-m", "learndyn", *words(**TWO)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=alone,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit deafness
    )
    assert soon(lambda: os.path.exists(tmp_path / "runs") and any((tmp_path / "runs").glob("*/.lock")), 60)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and said == INTERRUPTED, said
    assert soon(lambda: gone(process.pid), 5)
    ended = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    check(tmp_path, reference(seeds=2))
