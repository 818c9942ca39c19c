"""Early warning on a plateau: which units are dormant, which is next, when does the loss drop (arXiv:2506.06489)."""

from learndyn.plateau.block import Block, blocks
from learndyn.plateau.drop import NextDrop, next_drop
from learndyn.plateau.stage import Stage, stage
from learndyn.plateau.watching import Outlook, watch

__all__ = ["Block", "NextDrop", "Outlook", "Stage", "blocks", "next_drop", "stage", "watch"]
