"""How a state moves: train, fork, perturb, replicas, tangent and adjoint dynamics, stored trajectories."""

from learndyn.dynamics.flow import Flow, descent, flow
from learndyn.dynamics.grid import Grid, Nets, advance_grid, grid, grid_checkpoints, grid_outputs
from learndyn.dynamics.grid_measures import diverging, grid_curvature, grid_metrics, normalised_lr, refuse_divergence
from learndyn.dynamics.linearised import Linearised, linearise, train_linearised
from learndyn.dynamics.log_polar import VanishingFlow, vanishing_flow
from learndyn.dynamics.perturb import KINDS, Survival, displace, rounding_floor
from learndyn.dynamics.replicas import train_together
from learndyn.dynamics.state import ForeignState, State, fork, start, trainable, vector
from learndyn.dynamics.tangent import adjoint_norms, directions, lyapunov_exponents, tangent_growth
from learndyn.dynamics.train import Run, train, update
from learndyn.dynamics.trajectory import Checkpoints, Trajectory, load_weights
from learndyn.dynamics.two_layer_kernel import two_layer_kernel
from learndyn.dynamics.vanishing import attention_flow, diagonal_flow, linear_flow

__all__ = [
    "Checkpoints",
    "Flow",
    "ForeignState",
    "Grid",
    "KINDS",
    "Linearised",
    "Nets",
    "Run",
    "State",
    "Survival",
    "Trajectory",
    "VanishingFlow",
    "adjoint_norms",
    "advance_grid",
    "attention_flow",
    "descent",
    "directions",
    "displace",
    "diagonal_flow",
    "diverging",
    "flow",
    "fork",
    "grid",
    "grid_checkpoints",
    "grid_curvature",
    "grid_metrics",
    "grid_outputs",
    "linear_flow",
    "linearise",
    "load_weights",
    "lyapunov_exponents",
    "normalised_lr",
    "refuse_divergence",
    "rounding_floor",
    "start",
    "tangent_growth",
    "train",
    "train_linearised",
    "train_together",
    "trainable",
    "two_layer_kernel",
    "update",
    "vanishing_flow",
    "vector",
]
