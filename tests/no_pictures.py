"""Figures are made, with all they show, but not painted into files: for tests about something else."""

import base64

import matplotlib.pyplot as plt
import pytest

from learndyn.report import page


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    def close(figure, folder):
        plt.close(figure.drawing)
        return base64.b64encode(b"a picture").decode()

    monkeypatch.setattr(page, "_save", close)
