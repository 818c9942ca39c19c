"""A single neuron by routes that share nothing with the laws: more digits, and integration of the weights."""

import mpmath
import numpy as np
import torch
from scipy.integrate import solve_ivp


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def precise(a, w, target, t, etas=(1.0, 1.0), c=1.0, digits=60):
    """a and w at t by e^{Fs}q₀ / √(1 + q₀ᵀ∫e^{2Fτ}dτ q₀), the matrix exponential of all coordinates, in mpmath."""
    fastest = abs(float(a)) ** 2 + float(torch.as_tensor(w).square().sum()) + 2 * float(torch.linalg.norm(target))
    with mpmath.workdps(digits + int(c * fastest * max(etas) * t)):
        a, w, b = mpmath.mpf(float(a)), [mpmath.mpf(v) for v in w.tolist()], [mpmath.mpf(v) for v in target.tolist()]
        eta_a, eta_w = map(mpmath.mpf, etas)
        k, stretch = mpmath.sqrt(eta_a * eta_w), (eta_w / eta_a) ** mpmath.mpf("0.25")
        s = k * c * mpmath.mpf(t)
        d = len(w)
        imbalance = (eta_w * a**2 - eta_a * sum(v**2 for v in w)) / k
        f = mpmath.zeros(d + 1)
        for i in range(d):
            f[i, i], f[i, d], f[d, i] = -imbalance / 2, b[i], b[i]
        f[d, d] = imbalance / 2
        mu, p = mpmath.eigsy(f)
        g = p.T * mpmath.matrix([*(v / stretch for v in w), a * stretch])
        size = mpmath.mpf(1)
        for i in range(d + 1):
            x = mu[i] * s
            size += g[i] ** 2 * (s if abs(x) < mpmath.mpf(10) ** -50 else mpmath.expm1(2 * x) / (2 * mu[i]))
            g[i] *= mpmath.exp(x)
        q = p * g / mpmath.sqrt(size)
        return float(q[d] / stretch), tensor([float(q[i] * stretch) for i in range(d)])


def integrate(a, w, inputs, targets, times, etas=(1.0, 1.0), method="DOP853", rtol=1e-11, atol=1e-13):
    """a `(T,)` and w `(T, d)` for any data: a' = η_a wᵀg, w' = η_w a g, g = Xᵀ(y − X a w); times increase."""
    x, y = inputs.numpy(), targets.numpy()

    def slope(_, q):
        g = x.T @ (y - x @ (q[0] * q[1:]))
        return np.concatenate([[etas[0] * q[1:] @ g], etas[1] * q[0] * g])

    start = np.concatenate([[float(a)], w.numpy()])
    found = solve_ivp(slope, (0, float(times[-1])), start, method, t_eval=times.numpy(), rtol=rtol, atol=atol)
    assert found.success, found.message
    return tensor(found.y[0]), tensor(found.y[1:].T)
