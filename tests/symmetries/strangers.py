"""Networks as others write them: plain torch, none of them ours."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Pre(nn.Module):
    def __init__(self, d=12):
        super().__init__()
        self.e = nn.Embedding(11, d)
        self.p = nn.Parameter(torch.randn(5, d))
        self.l1 = nn.LayerNorm(d)
        self.a = nn.MultiheadAttention(d, 2, batch_first=True)
        self.l2 = nn.LayerNorm(d)
        self.f1 = nn.Linear(d, 2 * d)
        self.f2 = nn.Linear(2 * d, d)
        self.l3 = nn.LayerNorm(d)
        self.o = nn.Linear(d, 11)

    def forward(self, x):
        h = self.e(x) + self.p
        z = self.l1(h)
        h = h + self.a(z, z, z, need_weights=False)[0]
        h = h + self.f2(F.relu(self.f1(self.l2(h))))
        return self.o(self.l3(h))


class RMS(nn.Module):
    def __init__(self, d, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rope(x, cos, sin):
    h = x.shape[-1] // 2
    r = torch.cat((-x[..., h:], x[..., :h]), -1)
    return x * cos + r * sin


class Llama(nn.Module):
    """rotary, grouped queries, gated, hand-written rms"""

    def __init__(self, d=12, h=4, kv=2, f=10, v=9, T=6):
        super().__init__()
        self.h, self.kv, self.hd = h, kv, 4
        self.e = nn.Embedding(v, d)
        self.n1 = RMS(d)
        self.q = nn.Linear(d, h * self.hd, bias=False)
        self.k = nn.Linear(d, kv * self.hd, bias=False)
        self.v = nn.Linear(d, kv * self.hd, bias=False)
        self.o = nn.Linear(h * self.hd, d, bias=False)
        self.n2 = RMS(d)
        self.g = nn.Linear(d, f, bias=False)
        self.u = nn.Linear(d, f, bias=False)
        self.dn = nn.Linear(f, d, bias=False)
        self.n3 = RMS(d)
        self.out = nn.Linear(d, v, bias=False)
        fr = 1 / 10000 ** (torch.arange(0, self.hd, 2) / self.hd)
        a = torch.outer(torch.arange(T), fr)
        a = torch.cat((a, a), -1)
        self.register_buffer("cos", a.cos())
        self.register_buffer("sin", a.sin())

    def forward(self, x):
        B, T = x.shape
        h = self.e(x)
        z = self.n1(h)
        q = self.q(z).view(B, T, self.h, self.hd).transpose(1, 2)
        k = self.k(z).view(B, T, self.kv, self.hd).transpose(1, 2)
        v = self.v(z).view(B, T, self.kv, self.hd).transpose(1, 2)
        q, k = rope(q, self.cos[:T], self.sin[:T]), rope(k, self.cos[:T], self.sin[:T])
        k = k.repeat_interleave(self.h // self.kv, 1)
        v = v.repeat_interleave(self.h // self.kv, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, -1)
        h = h + self.o(a)
        z = self.n2(h)
        h = h + self.dn(F.silu(self.g(z)) * self.u(z))
        return self.out(self.n3(h))


class GPT(nn.Module):
    """fused qkv, manual attention with mask, tied embedding, pre-norm, gelu"""

    def __init__(self, d=12, h=3, v=9, T=6, tied=True, dropout=0.0):
        super().__init__()
        self.h = h
        self.e = nn.Embedding(v, d)
        self.p = nn.Embedding(T, d)
        self.l1 = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.o = nn.Linear(d, d)
        self.l2 = nn.LayerNorm(d)
        self.f1 = nn.Linear(d, 2 * d)
        self.f2 = nn.Linear(2 * d, d)
        self.l3 = nn.LayerNorm(d)
        self.out = nn.Linear(d, v, bias=False)
        self.dr = nn.Dropout(dropout)
        if tied:
            self.out.weight = self.e.weight
        self.register_buffer("mask", torch.tril(torch.ones(T, T)).view(1, 1, T, T))

    def forward(self, x):
        B, T = x.shape
        h = self.dr(self.e(x) + self.p(torch.arange(T)))
        q, k, v = self.qkv(self.l1(h)).chunk(3, -1)
        q, k, v = (t.view(B, T, self.h, -1).transpose(1, 2) for t in (q, k, v))
        w = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
        w = w.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
        w = self.dr(F.softmax(w, -1))
        h = h + self.dr(self.o((w @ v).transpose(1, 2).contiguous().view(B, T, -1)))
        h = h + self.dr(self.f2(F.gelu(self.f1(self.l2(h)))))
        return self.out(self.l3(h))


class MobileBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.b0 = nn.BatchNorm2d(6)
        self.e = nn.Conv2d(6, 12, 1, bias=False)
        self.b1 = nn.BatchNorm2d(12)
        self.d = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.b2 = nn.BatchNorm2d(12)
        self.p = nn.Conv2d(12, 6, 1, bias=False)
        self.b3 = nn.BatchNorm2d(6)
        self.c = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.b0(self.s(x)))
        y = F.relu6(self.b1(self.e(x)))
        y = F.relu(self.b2(self.d(y)))
        x = x + self.b3(self.p(y))
        return self.c(x.mean((2, 3)))


class Depth(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.d = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.p = nn.Conv2d(6, 5, 1)
        self.g = nn.Conv2d(5, 5, 3, padding=1)
        self.c = nn.Linear(5, 4)

    def forward(self, x):
        return self.c(F.relu(self.g(F.relu(self.p(F.relu(self.d(F.relu(self.a(x)))))))).mean((2, 3)))


class SqReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 7)
        self.b = nn.Linear(7, 4)

    def forward(self, x):
        return self.b(F.relu(self.a(x)) ** 2)


class TiedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.w = nn.Linear(6, 6, bias=False)
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.w(x))
        x = F.relu(self.w(x))
        return self.b(x)


class DeepLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.w = nn.Linear(6, 4)
        self.b = nn.Linear(4, 3)

    def forward(self, x):
        return self.b(self.w(self.a(x)))


class WN(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))
        self.b = nn.Linear(6, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


class QKNorm(nn.Module):
    def __init__(self, d=8, h=2):
        super().__init__()
        self.h = h
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.o = nn.Linear(d, d)
        self.nq = nn.RMSNorm(d // h)
        self.nk = nn.RMSNorm(d // h)

    def forward(self, x):
        B, T, d = x.shape
        q, k, v = (f(x).view(B, T, self.h, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        a = F.scaled_dot_product_attention(self.nq(q), self.nk(k), v)
        return self.o(a.transpose(1, 2).reshape(B, T, d))


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.LSTM(4, 5, batch_first=True)
        self.f = nn.Linear(5, 6)
        self.o = nn.Linear(6, 3)

    def forward(self, x):
        return self.o(F.relu(self.f(self.l(x)[0][:, -1])))


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 4))
        self.v = nn.Parameter(torch.randn(2, 6, 3))
        self.o = nn.Linear(6, 2)

    def forward(self, x):
        h = F.relu(torch.einsum("od,nd->no", self.w, x))
        h = F.relu(torch.einsum("no,hoc->nhc", h, self.v))
        return self.o(h.flatten(1))


class ViT(nn.Module):
    def __init__(self, d=12, h=2):
        super().__init__()
        self.patch = nn.Conv2d(3, d, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, d))
        self.pos = nn.Parameter(torch.randn(1, 5, d) * 0.1)
        self.enc = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(d, h, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.n = nn.LayerNorm(d)
        self.head = nn.Linear(d, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(self.n(self.enc(x))[:, 0])


class ConvNeXtBlock(nn.Module):
    def __init__(self, d=6):
        super().__init__()
        self.stem = nn.Conv2d(3, d, 2, 2)
        self.dw = nn.Conv2d(d, d, 3, padding=1, groups=d)
        self.n = nn.LayerNorm(d)
        self.p1 = nn.Linear(d, 4 * d)
        self.p2 = nn.Linear(4 * d, d)
        self.gamma = nn.Parameter(torch.rand(d))
        self.head = nn.Linear(d, 4)
        self.nf = nn.LayerNorm(d)

    def forward(self, x):
        x = self.stem(x)
        y = self.dw(x).permute(0, 2, 3, 1)
        y = self.gamma * self.p2(F.gelu(self.p1(self.n(y))))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.nf(x.mean((2, 3))))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.u = nn.ConvTranspose2d(6, 4, 2, 2)
        self.c = nn.Conv2d(8, 5, 3, padding=1)
        self.o = nn.Conv2d(5, 2, 1)

    def forward(self, x):
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        u = F.relu(self.u(b))
        return self.o(F.relu(self.c(torch.cat([a, u], 1)))).mean((2, 3))


class SE(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.f1 = nn.Linear(6, 3)
        self.f2 = nn.Linear(3, 6)
        self.o = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        w = torch.sigmoid(self.f2(F.relu(self.f1(x.mean((2, 3))))))
        return self.o((x * w[:, :, None, None]).amax((2, 3)))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b1 = nn.BatchNorm2d(4)
        self.c1 = nn.Conv2d(4, 3, 3, padding=1)
        self.b2 = nn.BatchNorm2d(7)
        self.c2 = nn.Conv2d(7, 3, 3, padding=1)
        self.o = nn.Linear(10, 4)

    def forward(self, x):
        x = self.a(x)
        x = torch.cat([x, self.c1(F.relu(self.b1(x)))], 1)
        x = torch.cat([x, self.c2(F.relu(self.b2(x)))], 1)
        return self.o(F.relu(x).mean((2, 3)))


class Mixer(nn.Module):
    def __init__(self, d=6, T=5):
        super().__init__()
        self.i = nn.Linear(4, d)
        self.n1 = nn.LayerNorm(d)
        self.t1 = nn.Linear(T, 7)
        self.t2 = nn.Linear(7, T)
        self.n2 = nn.LayerNorm(d)
        self.c1 = nn.Linear(d, 8)
        self.c2 = nn.Linear(8, d)
        self.o = nn.Linear(d, 3)

    def forward(self, x):
        x = self.i(x)
        x = x + self.t2(F.relu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.c2(F.relu(self.c1(self.n2(x))))
        return self.o(x.mean(1))


class Complex(nn.Module):
    """rotary by complex numbers"""

    def __init__(self, d=8, h=2):
        super().__init__()
        self.h = h
        self.q = nn.Linear(d, d, bias=False)
        self.k = nn.Linear(d, d, bias=False)
        self.v = nn.Linear(d, d, bias=False)
        self.o = nn.Linear(d, d, bias=False)
        self.register_buffer("f", torch.polar(torch.ones(5, d // h // 2), torch.rand(5, d // h // 2)))

    def forward(self, x):
        B, T, d = x.shape
        q, k, v = (f(x).view(B, T, self.h, -1) for f in (self.q, self.k, self.v))

        def turned(t):
            pairs = torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2))
            return torch.view_as_real(pairs * self.f[:T, None].to(pairs.dtype)).flatten(3)

        q, k = turned(q), turned(k)
        a = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.o(a.transpose(1, 2).reshape(B, T, d))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.b = nn.Linear(6, 6)
        self.o = nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x)
        h.relu_()
        out = torch.zeros(len(x), 6, dtype=x.dtype)
        out[:, :3] = h[:, :3]
        out[:, 3:] = self.b(h)[:, 3:]
        out.mul_(2.0)
        return self.o(F.leaky_relu_(out, 0.1))


class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 12)
        self.o = nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x).view(-1, 6, 2)
        return self.o(h.max(-1).values)


class Functional(nn.Module):
    """weights by hand"""

    def __init__(self):
        super().__init__()
        self.w = nn.ParameterList(
            [nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(3, 6))]
        )
        self.s = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return (self.w[2] @ torch.relu(self.w[0] @ x.T + self.w[1][:, None])).T * self.s


class PostMean(nn.Module):
    """subtracts mean by hand, divides by std"""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 6)
        self.g = nn.Parameter(torch.ones(6))
        self.o = nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x)
        h = (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-6)
        return self.o(torch.relu(self.g * h))


class GRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(7, 5)
        self.r = nn.GRUCell(5, 4)
        self.o = nn.Linear(4, 3)

    def forward(self, x):
        h = torch.zeros(len(x), 4, dtype=self.o.weight.dtype)
        for t in range(x.shape[1]):
            h = self.r(self.e(x[:, t]), h)
        return self.o(h)


class RNNReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.i = nn.Linear(4, 5)
        self.h = nn.Linear(5, 5, bias=False)
        self.o = nn.Linear(5, 3)

    def forward(self, x):
        h = torch.zeros(len(x), 5, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = torch.relu(self.i(x[:, t]) + self.h(h))
        return self.o(h)


class MoE(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Linear(5, 2)
        self.e = nn.ModuleList(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2))
        self.o = nn.Linear(4, 3)

    def forward(self, x):
        w = F.softmax(self.g(x), -1)
        return self.o(sum(w[:, i : i + 1] * e(x) for i, e in enumerate(self.e)))


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Bilinear(4, 4, 5)
        self.o = nn.Linear(5, 2)

    def forward(self, x):
        return self.o(F.relu(self.b(x, x)))


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 6))
        self.o = nn.Linear(6, 3)

    def forward(self, x):
        return self.o(F.relu(self.a(x)))
