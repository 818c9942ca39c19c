"""Run an experiment in a run directory: part by part, in as many processes as there are cores, from where it was."""

import contextlib
import hashlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import xarray as xr

from learndyn import runtime
from learndyn.errors import InputError
from learndyn.experiments import find
from learndyn.names import blaming, source
from learndyn.record import Progress, Record, locked, open_record, plain, quiet, run_name, silent
from learndyn.storage import read_json


def run(
    name: str,
    settings: Any,
    root: Path | str = "runs",
    jobs: int | None = None,
    fresh: bool = False,
    progress: Progress = silent,
    tune: bool = False,
) -> tuple[Record, xr.DataTree]:
    """Run an experiment, or finish it, or find it finished.

    Args:
        name: The experiment, as `learndyn list` names it.
        settings: An instance of its `Settings`.
        root: Folder of all run directories.
        jobs: Processes; by default as many as there are parts and cores for their threads, and one on a GPU.
        fresh: Forget what an earlier run of the same settings has left.
        progress: Called with what is being done and the units of work done since the last call.
        tune: Use faster float32 products where they are exact (`runtime.probe`). A run that has begun goes on with what
            it has begun with.

    Returns:
        The run directory, and the results that lie in its results.nc.

    Raises:
        InputError: If the settings cannot be run, or a file cannot be read or written.
    """
    experiment = find(name)
    experiment.validate(settings)
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs={jobs} must be at least 1.")
    with runtime.precision(_precision(Path(root) / run_name(name, plain(settings)), settings, tune, fresh)):
        record = open_record(Path(root), name, plain(settings), fresh)
        with locked(record):
            if not record.results_file.exists():
                try:
                    _measure(experiment, name, settings, record.folder, jobs, progress)
                except InputError:
                    record.forget_if_empty()
                    raise
                record.write_results(experiment.gather(settings, record.folder))
            return record, record.read_results()


def _precision(folder: Path, settings: Any, tune: bool, fresh: bool) -> str:
    """The kind of float32 products of a run: what was recorded with it, else what a probe says."""
    begun = folder / "environment.json"
    if begun.exists() and not fresh:
        return read_json(begun).get("float32_products") or "highest"
    plainly = getattr(settings, "dtype", "") != "float32" or getattr(settings, "device", "cpu") != "cpu"
    return "highest" if plainly or not tune else runtime.choose(*runtime.probe())


def _measure(
    experiment: ModuleType, name: str, settings: Any, folder: Path, jobs: int | None, progress: Progress
) -> None:
    parts = experiment.parts(settings)
    count = jobs if jobs is not None else _affordable(settings)
    if min(count, len(parts)) == 1:
        with quiet(), blaming():
            for part in parts:
                experiment.measure(part, settings, folder, progress)
        return
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    given = (reports, torch.get_float32_matmul_precision())
    with ProcessPoolExecutor(min(count, len(parts)), context, initializer=_prepare, initargs=given) as pool:
        try:
            with _deaf():  # workers are born deaf to Ctrl-C, which is for the parent: it ends them
                futures = [pool.submit(_work, name, part, settings, folder) for part in parts]
            _watch(futures, reports, progress)
        except BaseException as error:
            for process in list((pool._processes or {}).values()):
                process.terminate()  # every write is atomic: a killed part goes on from its last record
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise InputError(
                    "A worker process was killed, perhaps for want of memory; the same command goes on from here, "
                    "with --jobs 1 in less memory."
                ) from error
            raise


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C for a moment, where that can be done (in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _affordable(settings: Any) -> int:
    if getattr(settings, "device", "cpu") != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // getattr(settings, "threads", 1))


def _watch(futures: list[Future], reports: Any, progress: Progress) -> None:
    pending: set[Future] = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
        while True:
            try:
                progress(*reports.get_nowait())
            except queue.Empty:
                break
        for future in done:
            future.result()


_reports: Any = None


def _prepare(reports: Any, precision: str) -> None:
    global _reports
    _reports = reports
    torch.set_float32_matmul_precision(precision)
    runtime.keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker does not outlive a parent that was killed, whose lock on the run directory is gone."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _work(name: str, part: str, settings: Any, folder: Path) -> None:
    waiting: dict[str, float] = {}

    def report(what: str, units: float) -> None:
        waiting[what] = waiting.get(what, 0.0) + units
        if waiting[what] > 50:
            _reports.put((what, waiting.pop(what)))

    with quiet(), blaming():
        find(name).measure(part, settings, folder, report)
    for what, units in waiting.items():
        _reports.put((what, units))


def with_sources(settings: Any) -> Any:
    """The settings with the digests of the files that they point to: of factories, and of checkpoints their sizes and
    times of change, so that a folder to which some were added is another run.
    """
    if not hasattr(settings, "sources"):
        return settings
    named = [getattr(settings, field, None) for field in ("task", "model", "optimizer", "schedule")]
    named += [text for field in ("models", "optimizers") for text in getattr(settings, field, ())]
    digests = tuple(sorted({source(text) for text in named if isinstance(text, str)} - {""}))
    digests += tuple(map(_contents, getattr(settings, "checkpoints", ())))
    return replace(settings, sources=digests)


def _contents(folder: str) -> str:
    files = [(str(path), path.stat()) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    told = [(name, found.st_size, found.st_mtime_ns) for name, found in files]
    return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()
