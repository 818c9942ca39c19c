"""A run directory: named by experiment and settings, found again when asked for again, finished if it was interrupted.

runs/two-phase-3f9a1c2b/
  settings.yaml        what was run; feeds back into the command line
  environment.json     versions, device, threads, commit
  records/             what was measured so far, by seed and step
  states/              the base runs, by seed and step (safetensors)
  results.nc           measured and predicted, side by side
  claims.json
  figures/*.png *.svg
  report.html
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
import xarray as xr
import yaml

import learndyn
from learndyn.errors import InputError
from learndyn.storage import read_json, write_atomically, write_json, write_text

#: (what is being done, units of work finished since the last call)
Progress = Callable[[str, float], None]


def silent(what: str, units: float) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Record:
    """One run directory.

    Attributes:
        folder: Where it lies.
        experiment: Name of the experiment.
        settings: What is run, as plain numbers, strings and lists.
    """

    folder: Path
    experiment: str
    settings: dict[str, Any]

    def forget_if_empty(self) -> None:
        """Remove the run directory if nothing was measured in it."""
        if not any((self.folder / name).exists() for name in ("records", "kernels")):
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def results_file(self) -> Path:
        """Measured and predicted, as groups of one NetCDF file."""
        return self.folder / "results.nc"

    def write_results(self, results: xr.DataTree) -> None:
        """Write results.nc atomically."""
        # Made in memory: HDF5 cannot close a file that did not fit on the disk, and crashes when the process ends.
        content = bytes(results.to_netcdf(engine="h5netcdf"))
        write_atomically(self.results_file, lambda temporary: temporary.write_bytes(content))

    def read_results(self) -> xr.DataTree:
        """Read results.nc.

        Raises:
            InputError: If it is damaged, or of other settings.
        """
        try:
            with xr.open_datatree(self.results_file, engine="h5netcdf") as tree:
                tree.load()
                if json.loads(tree.attrs["settings"]) != self.settings:
                    raise ValueError("it holds the results of other settings")
                return tree
        except Exception as error:  # h5py has a dozen ways to say so
            raise InputError(
                f"{self.results_file} is missing or damaged ({error}); delete it and run again."
            ) from error


def plain(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass as what YAML and JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def part_file(folder: Path, part: str) -> Path:
    """Where a part of an experiment that is one dataset leaves it; it is there when the part is done."""
    return folder / "records" / f"{part}.nc"


def write_part(folder: Path, part: str, found: xr.Dataset) -> None:
    """Leave what a part has measured, whole or not at all."""
    content = bytes(found.to_netcdf(engine="h5netcdf"))
    write_atomically(part_file(folder, part), lambda temporary: temporary.write_bytes(content))


def read_part(folder: Path, part: str) -> xr.Dataset:
    """What a part has left.

    Raises:
        InputError: If its file is missing or damaged.
    """
    path = part_file(folder, part)
    try:
        with xr.open_dataset(path, engine="h5netcdf") as found:
            return found.load()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); delete it and run again.") from error


def side_by_side(whole: xr.Dataset, settings: Any) -> xr.DataTree:
    """Results from one dataset: what is called `predicted_x` goes to /predicted as x, all else to /measured."""
    names = {n: n.removeprefix("predicted_") for n in map(str, whole.data_vars) if n.startswith("predicted_")}
    measured, law = whole.drop_vars(list(names)), whole[list(names)].rename(names)
    tree = xr.DataTree.from_dict({"/measured": measured, "/predicted": law})
    tree.attrs["settings"] = json.dumps(plain(settings))
    return tree


def run_name(experiment: str, settings: dict[str, Any]) -> str:
    """Experiment and the first digits of a hash of all its settings."""
    text = json.dumps({"experiment": experiment, "settings": settings}, sort_keys=True)
    return f"{experiment}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def open_record(root: Path, experiment: str, settings: dict[str, Any], fresh: bool = False) -> Record:
    """The run directory of these settings, made if there is none.

    Args:
        root: Folder of all run directories.
        experiment: Name of the experiment.
        settings: As `plain` gives them.
        fresh: Throw away what an earlier run has left there.

    Raises:
        InputError: If the folder cannot be written, or the earlier run was made in another environment and is not
            finished.
    """
    record = Record(root / run_name(experiment, settings), experiment, settings)
    folder = record.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make {folder}: {error.strerror}; choose another place with --runs.") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"Cannot write into {folder}; choose another place with --runs.")
    if fresh:
        with locked(record):
            _empty(folder)
    here = environment(settings)
    if (folder / "environment.json").exists() and not record.results_file.exists():
        there = {"float32_products": "highest", **read_json(folder / "environment.json")}  # not noted at first
        differing = [name for name in REPLAYED if there.get(name) != here[name]]
        if differing:
            name = differing[0]
            raise InputError(
                f"{folder} was begun with {name} = {there.get(name)!r}, here it is {here[name]!r}: it would not end "
                f"bit for bit where it began. Finish it in the old environment, or start anew with --fresh."
            )
    lost = {"note": "What this run was made with is lost."}
    content = yaml.safe_dump({"experiment": experiment, **settings}, sort_keys=False)
    if not _holds(folder / "settings.yaml", content):
        write_text(folder / "settings.yaml", content)
    if not (folder / "environment.json").exists():
        write_json(folder / "environment.json", lost if record.results_file.exists() else here)
    return record


def _holds(path: Path, text: str) -> bool:
    with contextlib.suppress(OSError):
        return path.read_bytes() == text.encode()
    return False


def _empty(folder: Path) -> None:
    """Remove everything but the lock."""
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
    except OSError as error:
        raise InputError(f"Cannot remove {error.filename}: {error.strerror}.") from error


def read_record(folder: Path) -> Record:
    """A run directory by its path.

    Raises:
        InputError: If there is none.
    """
    try:
        content = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        return Record(folder, str(content.pop("experiment")), content)
    except FileNotFoundError:
        raise InputError(f"{folder} is no run directory: it has no settings.yaml; give a folder below runs.") from None
    except (OSError, ValueError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / 'settings.yaml'} is damaged ({type(error).__name__}); the command that made the run mends it."
        ) from error


@contextlib.contextmanager
def locked(record: Record) -> Iterator[None]:
    """Keep other processes out of a run directory.

    Raises:
        InputError: If one is at work in it, or it cannot be locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(record.folder / ".lock", "w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another process is working in {record.folder}; wait for it, or stop it first.") from None
        except OSError as error:
            raise InputError(
                f"Cannot lock {record.folder}: {error.strerror}; choose another place with --runs."
            ) from error
        try:
            _sweep(record.folder)
            yield
        finally:
            _sweep(record.folder)


def _sweep(folder: Path) -> None:
    """Remove what killed writes left; whoever writes holds the lock, so nobody is writing now."""
    for left in folder.rglob(".*.tmp"):
        left.unlink(missing_ok=True)


#: What a continued run must share with its beginning, because it decides the bits.
REPLAYED = ("learndyn", "torch", "numpy", "machine", "processor", "device_name", "blas", "float32_products")


def environment(settings: dict[str, Any]) -> dict[str, Any]:
    """What a result depends on besides its settings."""
    device = torch.device(settings.get("device", "cpu"))
    return {
        "learndyn": learndyn.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "xarray": xr.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "blas": "mkl" if torch.backends.mkl.is_available() else "other",
        "float32_products": torch.get_float32_matmul_precision(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
    }


def _commit() -> str:
    """The commit of a source checkout, with a star if it was changed since; "" for an installed package."""
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=*", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip() if asked.returncode == tracked.returncode == 0 else ""


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings that say nothing to the reader of a report."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TF32.*")
        yield
