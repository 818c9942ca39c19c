"""How a state moves: train, fork, perturb, replicas, tangent and adjoint dynamics, stored trajectories."""

from learndyn.dynamics.flow import Flow, descent, flow
from learndyn.dynamics.linearised import Linearised, linearise, train_linearised
from learndyn.dynamics.perturb import KINDS, Survival, displace, rounding_floor
from learndyn.dynamics.replicas import train_together
from learndyn.dynamics.state import ForeignState, State, fork, start, trainable, vector
from learndyn.dynamics.tangent import adjoint_norms, directions, lyapunov_exponents, tangent_growth
from learndyn.dynamics.train import Run, train, update
from learndyn.dynamics.trajectory import Checkpoints, Trajectory, load_weights

__all__ = [
    "Checkpoints",
    "Flow",
    "ForeignState",
    "KINDS",
    "Linearised",
    "Run",
    "State",
    "Survival",
    "Trajectory",
    "adjoint_norms",
    "descent",
    "directions",
    "displace",
    "flow",
    "fork",
    "linearise",
    "load_weights",
    "lyapunov_exponents",
    "rounding_floor",
    "start",
    "tangent_growth",
    "train",
    "train_linearised",
    "train_together",
    "trainable",
    "update",
    "vector",
]
