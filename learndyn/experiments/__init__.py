"""One module a paper: what is run, what must come out. Found by name, here or as an entry point `learndyn.experiments`.

An experiment is a module or package with
    Settings   a frozen dataclass; its fields, defaults and docstring are the command line
    PRESETS    settings by name: "quick", "standard", "paper", and whatever else is worth a name
    PAPER      how to cite it
    validate   (settings) -> None, raises InputError before any time is spent
    work       (settings) -> units of work of each part, for the progress bar
    parts      (settings) -> names of the parts that can be measured independently (in processes of their own)
    measure    (part, settings, folder, progress) -> None: does one part, from where it was, leaving records in the
    folder gather     (settings, folder) -> xr.DataTree with the groups /measured and /predicted
    claims     (results) -> list of Claim
    figures    (results) -> list of Figure
    TITLE, lead, notes, tables   the words and tables of the report
"""

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType

from learndyn.errors import InputError, unknown

GROUP = "learndyn.experiments"


def names() -> list[str]:
    """All experiments, by the name that the command line takes."""
    own = [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]
    return sorted({*own, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> ModuleType:
    """The module of an experiment.

    Raises:
        InputError: If there is none of this name, or somebody's plug-in cannot be imported.
    """
    own = {module.name.replace("_", "-"): module.name for module in pkgutil.iter_modules(__path__)}
    if name in own:
        return importlib.import_module(f"{__name__}.{own[name]}")
    for point in entry_points(group=GROUP):
        if point.name == name:
            try:
                return point.load()
            except Exception as error:  # whatever somebody's package raises
                raise InputError(f"The experiment {name!r} of {point.value} cannot be imported: {error}.") from error
    raise unknown("experiment", name, names())
