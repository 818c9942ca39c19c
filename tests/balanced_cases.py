"""Starts of balanced two-layer linear networks, and their flow by routes that share nothing with the laws."""

import mpmath
import numpy as np
import torch
from scipy.integrate import solve_ivp

from learndyn.models.balanced import sample_balanced


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def draw(d, h, c, lam, seed=0, scale=0.3, rank=None):
    """Both layers and a task, Gaussian over √max(d, c), with `rank` singular values."""
    rng = np.random.default_rng(seed)
    sigma = rng.standard_normal((c, d)) / np.sqrt(max(c, d))
    if rank is not None:
        u, s, vt = np.linalg.svd(sigma, full_matrices=False)
        sigma = (u[:, :rank] * s[:rank]) @ vt[:rank]
    w1, w2 = sample_balanced((d, h, c), (lam,), rng, scale=scale)
    return w1, w2, tensor(sigma)


def integrate(w1, w2, sigma, times, second=None, etas=(1.0, 1.0), rtol=1e-12, atol=1e-14):
    """W₁ and W₂ at increasing times by DOP853; `second` is E[xxᵀ], the identity by default."""
    (h, d), c = w1.shape, len(w2)
    sigma, second = sigma.numpy(), np.eye(d) if second is None else second.numpy()

    def slope(_, y):
        first, last = y[: h * d].reshape(h, d), y[h * d :].reshape(c, h)
        error = sigma - last @ first @ second
        return np.concatenate([etas[0] * (last.T @ error).ravel(), etas[1] * (error @ first.T).ravel()])

    start = np.concatenate([w1.numpy().ravel(), w2.numpy().ravel()])
    found = solve_ivp(slope, (0, float(times[-1])), start, "DOP853", rtol=rtol, atol=atol, t_eval=times.numpy())
    return [(tensor(y[: h * d].reshape(h, d)), tensor(y[h * d :].reshape(c, h))) for y in found.y.T]


def observed(w1, w2):
    """[[W₁ᵀW₁, (W₂W₁)ᵀ], [W₂W₁, W₂W₂ᵀ]], all that can be observed, `(..., d + c, d + c)`."""
    q = torch.cat([w1.mT, w2], -2)
    return q @ q.mT


def off(found, true):
    """Largest difference over the largest entry."""
    return float((found - true).abs().max() / true.abs().max())


def generator(sigma, lam):
    """F, `(d + c, d + c)`."""
    c, d = sigma.shape
    eye = [torch.eye(n, dtype=torch.float64) * lam / 2 for n in (d, c)]
    return torch.cat([torch.cat([-eye[0], sigma.mT], 1), torch.cat([sigma, eye[1]], 1)])


def precise(w1, w2, sigma, lam, t):
    """QQᵀ(t) by e^{Ft}Q₀ [I + Q₀ᵀ ∫e^{2Fτ}dτ Q₀]⁻¹ Q₀ᵀe^{Ft} with as many digits as the exponentials need."""
    fastest = float(torch.linalg.eigvalsh(generator(sigma, lam)).abs().max())
    with mpmath.workdps(60 + int(2 * fastest * t)):
        f = mpmath.matrix(generator(sigma, lam).tolist())
        for i in range(f.rows):  # λ itself, not λ rounded in a tensor
            f[i, i] = mpmath.mpf(lam) / (2 if i >= sigma.shape[1] else -2)
        q = mpmath.matrix(torch.cat([w1.mT, w2]).tolist())
        mu, p = mpmath.eigsy(f)
        g = p.T * q
        grown, inside = mpmath.matrix(g.rows, g.cols), mpmath.eye(g.cols)
        for i in range(g.rows):
            x = mu[i] * t
            factor = mpmath.mpf(t) if abs(x) < mpmath.mpf(10) ** -40 else mpmath.expm1(2 * x) / (2 * mu[i])
            grown[i, :] = g[i, :] * mpmath.exp(x)
            inside += factor * (g[i, :].T * g[i, :])
        found = p * grown * mpmath.inverse(inside) * grown.T * p.T
        return tensor([[float(found[i, j]) for j in range(found.cols)] for i in range(found.rows)])
