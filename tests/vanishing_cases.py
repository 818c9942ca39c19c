"""Problems of arXiv:2506.06489 that laws and flows are tested on."""

import math

import numpy as np
import torch


def tensor(values):
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float64)


def rotation(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def plane():
    """The two-dimensional example: X and y = Xβ with β = (−0.2, 2)."""
    angle = math.radians(150)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    x = np.linalg.cholesky(turn @ np.diag([1.0, 25.0]) @ turn.T)
    return tensor(x), tensor(x @ [-0.2, 2.0])


def five():
    """The example in five dimensions, twenty samples."""
    rng = np.random.RandomState(10)
    x = rng.randn(20, 5) @ np.diag(1 / np.sqrt(np.arange(1, 6)))
    return tensor(x), tensor(x @ (10 * rng.randn(5)))


def whitened(rng, values=(4.0, 2.5, 1.5, 0.8), c=6, d=5):
    """Σxx = I and Σyx of given singular values."""
    modes = len(values)
    return np.eye(d), rotation(rng, c)[:, :modes] @ np.diag(values) @ rotation(rng, d)[:, :modes].T


def mismatched(rng):
    """Σxx and Σyx that commute, with σ = (3, 2, 1.6) and μ = (3, 4, 5.12)."""
    sigma, gains = np.array([3.0, 2.0, 1.6]), np.array([3.0, 4.0, 5.12])
    left, right = rotation(rng, 4)[:, :3], rotation(rng, 3)
    return right @ np.diag(sigma**2 / gains) @ right.T, left @ np.diag(sigma) @ right.T


def weights(rng, alpha, c, hidden, d):
    """W(0) and A(0) of the given size."""
    w, a = rng.standard_normal((hidden, d)), rng.standard_normal((c, hidden))
    return tensor(alpha * w / math.sqrt(2 * d)), tensor(alpha * a / math.sqrt(2 * c))


def harmonic(rng, d=4):
    """Σ of the in-context example: eigenvalues 1, ½, ⅓, ¼ up to a trace of 2, turned."""
    values, turn = 1 / np.arange(1.0, d + 1), rotation(rng, d)
    return turn @ np.diag(2 * values / values.sum()) @ turn.T


def heads(rng, alpha, hidden, d):
    """v(0) > 0, k(0), q(0)."""
    v = np.abs(rng.standard_normal(hidden))
    return tensor(alpha * v), *(tensor(alpha * rng.standard_normal((hidden, d))) for _ in range(2))


def template(rng, p, amplitudes):
    """x with the given |x̂| and random phases."""
    spectrum = np.zeros(p, complex)
    for k, amplitude in amplitudes.items():
        spectrum[k] = amplitude * (1 if 2 * k == p else np.exp(2j * math.pi * rng.random()))
        spectrum[-k % p] = spectrum[k].conj()
    return tensor(np.fft.ifft(spectrum).real)
