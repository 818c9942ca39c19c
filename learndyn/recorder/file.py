"""The file of a record: a line of JSON that says what is recorded, then rows of float64 of equal length.

Each row has a checksum and is written by a single call. A process may be killed at any instant: every row but the one
being written is there, and that one is not taken for whole.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from learndyn.errors import InputError
from learndyn.recorder.ledger import MARKS, QUANTITIES, SETTINGS

FORMAT = "learndyn-record-1"
FILE = "record.bin"
COORDINATES = ("step", "time", "charge", "law", "law_of", "unit", "kind", "bound", "mark", "part", "of")
MORE = ("uniform", "transfer", "response")
PER_LAW = 2 * len(SETTINGS) + 1 + 4  # numbers in a row: smallest and largest, whether uniform, the transfer


def parse(path: Path) -> tuple[dict[str, Any] | None, np.ndarray, int, int, int]:
    """Header, rows in the order in which they were written, seed of the checksums, end of the last row, rows lost."""
    content = path.read_bytes()
    line, newline, body = content.partition(b"\n")
    none = np.zeros((0, 0))
    start = json.dumps({"format": FORMAT})[:-1].encode()
    if not newline and start.startswith(content[: len(start)]):
        return None, none, 0, 0, 0  # killed before there was anything
    try:
        header = json.loads(line) if line.startswith(start) else None
    except ValueError:
        header = None
    if header is None:
        raise InputError(f"{path} is no record of learndyn, or its first line is damaged; choose another folder.")
    laws, shapes = header["laws"], [shape for shape, _ in header["observables"].values()]
    width = 3 + PER_LAW * len(laws) + (len(QUANTITIES) + 2) * sum(law["size"] for law in laws)
    width += sum(int(np.prod(shape)) for shape in shapes)
    count, seed = len(body) // (8 * width + 8), zlib.crc32(line + newline)
    table = np.frombuffer(body, "<f8", count * (width + 1)).reshape(count, width + 1)
    checks = table[:, -1].copy().view("<u8")
    whole = np.array([zlib.crc32(row[:-1].tobytes(), seed) for row in table], "<u8") == checks
    last = int(np.flatnonzero(whole)[-1]) + 1 if whole.any() else 0
    end = len(line) + 1 + last * (8 * width + 8)
    return header, table[whole, :-1], seed, end, last - int(whole.sum())


def read(folder: str | Path) -> xr.Dataset:
    """What was recorded, also while it is being recorded.

    Returns:
        `q` and what moves it (`QUANTITIES` of the ledger) by `(step, charge)`, smallest and largest `SETTINGS` of each
        law since the row before by `(step, law, bound)`, `uniform`, `transfer` and `response` (see `Window`), and the
        observables. Of a charge, `law_of` is its law and `unit` its number there.
        `mark` is a sum of flags, which its attributes explain. Where a run was begun again from a checkpoint the rows
        beyond that are left out.

    Raises:
        InputError: If there is no record, or nothing in it yet, or it is damaged.
    """
    path = Path(folder) / FILE
    try:
        header, rows, _, _, lost = parse(path)
    except OSError as error:
        raise InputError(f"There is no record in {folder}: {error.strerror}.") from error
    if header is None or not len(rows):
        raise InputError(f"There is not yet a row in {path}.")
    later = np.minimum.accumulate(rows[::-1, 0])[::-1]
    rows = rows[np.append(rows[:-1, 0] < later[1:], True)]
    laws = header["laws"]
    count, size = len(laws), sum(law["size"] for law in laws)
    owner = np.repeat(np.arange(count), [law["size"] for law in laws])
    unit = np.concatenate([np.arange(law["size"]) for law in laws] or [np.zeros(0, int)])
    data: dict[str, Any] = {}
    at = 3 + 2 * len(SETTINGS) * count
    settings = rows[:, 3:at].reshape(len(rows), len(SETTINGS), 2, count)
    for i, name in enumerate(SETTINGS):
        data[name] = ("step", "law", "bound"), settings[:, i].swapaxes(1, 2)
    data["uniform"] = ("step", "law"), rows[:, at : at + count] > 0
    transfer = rows[:, at + count : at + 5 * count].reshape(len(rows), 2, 2, count)
    data["transfer"] = ("step", "part", "of", "law"), transfer
    at += 5 * count
    for name, (meaning, units) in QUANTITIES.items():
        data[name] = ("step", "charge"), rows[:, at : at + size], {"long_name": meaning, "units": units}
        at += size
    data["response"] = ("step", "part", "charge"), rows[:, at : at + 2 * size].reshape(len(rows), 2, size)
    at += 2 * size
    for name, (shape, dimensions) in header["observables"].items():
        width = int(np.prod(shape))
        data[name] = ("step", *dimensions), rows[:, at : at + width].reshape(len(rows), *shape)
        at += width
    flags = {"flag_masks": list(MARKS.values()), "flag_meanings": " ".join(MARKS)}
    data["mark"] = "step", rows[:, 2].astype(int), flags
    coordinates = {
        "step": rows[:, 0].astype(int),
        "time": ("step", rows[:, 1], {"long_name": "sum of the learning rates of the first parameter group"}),
        "law": [law["name"] for law in laws],
        "kind": ("law", [law["kind"] for law in laws]),
        "bound": ["low", "high"],
        "part": ["charge", "overlap"],
        "of": ["charge", "overlap"],
        "law_of": ("charge", owner),
        "unit": ("charge", unit),
    }
    known = {name: header[name] for name in ("model", "dtype", "device", "optimizer", "learndyn", "torch")}
    attributes = known | {"options": json.dumps(header["options"]), "split": int(header["split"]), "rows_lost": lost}
    return xr.Dataset(data, coordinates, attributes)
