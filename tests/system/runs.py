"""Small settings, and what must be the same in two run directories."""

import json
from pathlib import Path

import xarray as xr
from safetensors import safe_open

#: A run of a second: a network of 150 weights, 48 steps, two twins and the control.
SMALL = {
    "task": "teacher(examples=160, test_examples=60, inputs=6, classes=3, label_noise=0.2, batch_size=16)",
    "model": "mlp(width=8, depth=1, batch_norm=True)",
    "optimizer": "sgd(lr=0.2, momentum=0.9, weight_decay=1e-3)",
    "schedule": "cosine",
    "steps": 48,
    "t0": (0, 20),
    "t1": (24, 48),
    "horizons": (10,),
    "seeds": 1,
    "directions": 1,
    "probes": 1,
    "points": 3,
    "kernels": 5,
    "probe": 4,
    "switches": (0, 20),
    "engine": "loop",
    "jobs": 1,
}


def words(**changes: object) -> list[str]:
    """The command that runs the small setting, with some settings changed; None takes the preset's."""
    spoken = ["run", "two-phase"]
    for name, value in (SMALL | changes).items():
        if value is not None:
            values = value if isinstance(value, tuple) else (value,)
            spoken += [f"--{name.replace('_', '-')}", *map(str, values)]
    return spoken


def only(place: Path) -> Path:
    """The one run directory below a working directory."""
    (folder,) = (place / "runs").iterdir()
    return folder


def arrays(folder: Path) -> dict:
    """Everything in results.nc, to the bit: dimensions, type and bytes of every variable and coordinate, attributes."""
    found = {}
    with xr.open_datatree(folder / "results.nc", engine="h5netcdf") as tree:
        for node in tree.subtree:
            found[node.path, "attributes"] = dict(node.attrs)
            for name, variable in node.to_dataset().variables.items():
                found[node.path, name] = (variable.dims, str(variable.dtype), variable.values.tobytes(), variable.attrs)
    return found


def state(path: Path) -> tuple:
    """Everything in a state file, whatever the order in which it was written."""
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        return file.metadata(), {name: (str(t.dtype), t.shape, t.tobytes()) for name, t in tensors.items()}


def contents(folder: Path) -> dict:
    """All of a run that must come out the same bit for bit, however often it was interrupted."""
    found = {"results.nc": arrays(folder), "claims.json": json.loads((folder / "claims.json").read_text())}
    for path in sorted(folder.rglob("states/**/*.safetensors")):
        found[str(path.relative_to(folder))] = state(path)
    for path in sorted(folder.rglob("records/**/*.json")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def assert_same(one: Path, other: Path) -> None:
    """Two run directories hold the same run; names the first file that differs."""
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name


def leftovers(folder: Path) -> list[str]:
    """Files that a finished run has no use for."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [str(p.relative_to(folder)) for p in found if p.suffix == ".tmp" or "snapshot" in p.name]


def fingerprints(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes, except the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
