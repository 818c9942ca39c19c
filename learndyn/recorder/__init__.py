"""What moves the charges of a network in anybody's training loop, step by step, on disk (arXiv:2012.04728)."""

from learndyn.recorder.file import read
from learndyn.recorder.kept import kept
from learndyn.recorder.ledger import MARKS, QUANTITIES, SETTINGS, Ledger, Window
from learndyn.recorder.lens import lens
from learndyn.recorder.recorder import Recorder
from learndyn.recorder.training import train_recorded

__all__ = ["MARKS", "QUANTITIES", "SETTINGS", "Ledger", "Recorder", "Window", "kept", "lens", "read", "train_recorded"]
