"""What all system tests share: one nursery, a small setting, and its uninterrupted run."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from lives import Nursery
from settings import SMALL, words_of


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery
