"""Real processes at the price of a fork, for tests that start, kill and cripple the command line dozens of times.

Importing torch and xarray takes five seconds, so one process imports them once and forks a child for every command. A
child is a process group of its own with its output in files: it can be killed, limited and tampered with like any
other. Run as a script this file is that process; imported, it offers `Nursery`, which talks to it over a pipe.
"""

import contextlib
import itertools
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ENDED_BY_KILL = -signal.SIGKILL


@dataclass(frozen=True)
class Life:
    """How a command ended: exit status (negative for a signal), what it said, how long it took."""

    status: int
    out: str
    err: str
    seconds: float

    def error(self) -> str:
        """The one sentence of a refusal; fails if it was no such thing."""
        lines = self.err.splitlines()
        assert self.status == 2, (self.status, self.err[-2000:])
        sentences = [line for line in lines if line.startswith("learndyn: ")]
        others = [line for line in lines if line not in sentences and " %  " not in line]
        assert len(sentences) == 1 and not others, self.err[-2000:]
        assert sentences[0].endswith((".", "?")), sentences[0]
        return sentences[0].removeprefix("learndyn: ")


class Process:
    """A command under way."""

    def __init__(self, nursery: "Nursery", pid: int, cwd: Path, files: tuple[Path, Path]):
        self.nursery, self.pid, self.cwd, self.files = nursery, pid, cwd, files
        self.began, self.ended = time.monotonic(), None

    def until(self, file: str) -> None:
        """Wait until a file of this pattern is there, below the folder where it works."""
        end = time.monotonic() + 60
        while not any(self.cwd.rglob(file)):
            if time.monotonic() > end or self.wait(0.0):
                raise TimeoutError(f"no {file} came: {self.files[1].read_text()[-2000:]}")
            time.sleep(0.002)

    def children(self) -> list[int]:
        """Its direct children."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def signal(self, number: int = signal.SIGKILL, group: bool = True) -> None:
        """Send a signal to the process and all its workers, or to it alone."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, timeout: float = 60.0) -> Life | None:
        """How it ended; None if it has not yet."""
        if self.ended is None:
            status = self.nursery.ask(wait=self.pid, timeout=timeout)["status"]
            if status is None:
                return None
            out, err = (path.read_text(errors="replace") for path in self.files)
            self.ended = Life(status, out, err, time.monotonic() - self.began)
        return self.ended


class Nursery:
    """The process that has imported everything; `with Nursery(folder) as nursery: nursery.run("list")`."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, itertools.count()

    def __enter__(self) -> "Nursery":
        alone = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        alone |= {"MPLCONFIGDIR": str(self.folder / "matplotlib"), "COLUMNS": "100"}
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | alone,
            stderr=open(self.folder / "server.err", "w"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stdin.close()
        self.server.wait(30)

    def ask(self, **request: object) -> dict:
        """One request, one answer."""
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        if not answer:
            raise RuntimeError(f"the nursery is dead: {(self.folder / 'server.err').read_text()[-2000:]}")
        return json.loads(answer)

    def start(self, *words: object, cwd: Path, **tampered: object) -> Process:
        """Begin `learndyn WORDS` in a folder, tampered with as `tamper` says."""
        number = next(self.count)
        files = tuple(self.folder / f"{number}.{end}" for end in ("out", "err"))
        answer = self.ask(
            words=[str(word) for word in words], cwd=str(cwd), files=[str(path) for path in files], tampered=tampered
        )
        return Process(self, answer["pid"], cwd, files)

    def run(self, *words: object, cwd: Path, timeout: float = 120.0, **tampered: object) -> Life:
        """Do `learndyn WORDS` to its end."""
        process = self.start(*words, cwd=cwd, **tampered)
        life = process.wait(timeout)
        if life is None:
            process.signal()
            raise TimeoutError(f"learndyn {' '.join(map(str, words))} took more than {timeout} s")
        return life


# What follows runs in the server and its children.


def tamper(
    snapshots: int = 0, draw: bool = False, forked: bool = False, die: list | None = None, limit: int | None = None
) -> None:
    """Change this process.

    Args:
        snapshots: Take a snapshot after every piece of so many steps instead of every ten seconds; 0 for as it is.
        draw: Draw the figures, which takes longer than everything else.
        forked: Make workers by fork instead of spawn, which saves them the imports.
        die: [how, k]: kill this process at its k-th write, see `_die_writing`.
        limit: Largest size of a file in bytes (RLIMIT_FSIZE): writes beyond it fail as on a full disk.
    """
    import learndyn.experiments.two_phase as two_phase
    from learndyn.experiments.two_phase import grid

    if snapshots:
        grid.SNAPSHOT_SECONDS, grid.PIECE = -1.0, snapshots
    if not draw:
        two_phase.figures = lambda results: []
    if forked:
        import multiprocessing

        original = multiprocessing.get_context
        multiprocessing.get_context = lambda method=None: original("fork")
    if die:
        _die_writing(*die)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does, so that the write fails instead


def _die_writing(how: str, k: int) -> None:
    """Kill this process at its k-th write: with half of the file written under its temporary name ("torn"), all of it
    but not yet under its own name ("unnamed"), just after it was named ("named"); or before or after the k-th time that
    a file is removed ("removing", "removed").
    """
    left = [k]
    sync, replace, unlink = os.fsync, os.replace, os.unlink

    def due() -> bool:
        left[0] -= 1
        return left[0] == 0

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        if how == "torn" and stat.S_ISREG(os.fstat(descriptor).st_mode) and due():
            os.truncate(os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size // 2)
            end()
        sync(descriptor)

    def rename(source: os.PathLike, target: os.PathLike) -> None:
        die = how in ("unnamed", "named") and due()
        if die and how == "unnamed":
            end()
        replace(source, target)
        if die:
            end()

    def remove(path: os.PathLike, **options: object) -> None:
        die = how in ("removing", "removed") and due()
        if die and how == "removing":
            end()
        unlink(path, **options)
        if die:
            end()

    os.fsync, os.replace, os.unlink = fsync, rename, remove


def _live(words: list[str], cwd: str, files: list[str], tampered: dict) -> None:
    """What a child does; never returns."""
    status = 70
    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in enumerate((nothing, *(os.open(f, os.O_CREAT | os.O_WRONLY) for f in files))):
            os.dup2(target, descriptor)
        os.chdir(cwd)
        sys.path[:] = [p for p in sys.path if p != str(Path(__file__).parent)]
        os.environ["LEARNDYN_TAMPERED"] = json.dumps(tampered)  # for workers, which import this file anew
        tamper(**tampered)
        from learndyn.__main__ import main

        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def _serve() -> None:
    from learndyn.__main__ import main

    # One small command, so that everything that is imported or cached on first use is there before the first fork.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        tamper()
        options = f"--task teacher(examples=100) --model mlp(width=4) --steps 2 --t0 0 1 --t1 2 --runs {folder}/runs"
        words = f"{options} --horizons 1 --seeds 1 --directions 1 --probes 1 --points 3 --engine vmap --jobs 1".split()
        assert main(["run", "two-phase", *words]) == 0
    assert os.listdir("/proc/self/task") == [str(os.getpid())], "a process with threads cannot be forked safely"
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit deafness
                _live(**request)
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # here, too, so that it can be signalled at once
            answer = {"pid": pid}
        else:
            end = time.monotonic() + request["timeout"]
            while not (done := os.waitpid(request["wait"], os.WNOHANG))[0] and time.monotonic() < end:
                time.sleep(0.005)
            answer = {"status": os.waitstatus_to_exitcode(done[1]) if done[0] else None}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
elif __name__ == "__mp_main__":  # a spawned worker of a tampered command
    tamper(**json.loads(os.environ["LEARNDYN_TAMPERED"]))
