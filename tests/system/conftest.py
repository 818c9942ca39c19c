"""What the system tests share: the nursery, and uninterrupted runs to compare with."""

from pathlib import Path

import pytest
from lives import Nursery
from runs import only, words


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture(scope="session")
def reference(nursery, tmp_path_factory):
    """The run directory of a setting that nothing disturbed, made once."""
    made: dict[str, Path] = {}

    def of(**changes):
        name = str(sorted(changes.items()))
        if name not in made:
            place = tmp_path_factory.mktemp("reference")
            life = nursery.run(*words(**changes), cwd=place)
            assert life.status == 0, life.err
            made[name] = only(place)
        return made[name]

    return of
