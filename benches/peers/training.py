"""Stage 3 of MOHAWK at the shapes of examples/training.rs in PyTorch with Triton's SSD: teacher (SDPA) without gradients, student forward and
backward, cross entropy against the teacher's softmax, fused AdamW. Random weights in bf16, moments too; medians of steps with a wait each.

    python3 benches/peers/training.py smollm2-135m 16 1024 [compile]

Needs what ssd.py needs. Its convolution is PyTorch's own, without mamba_ssm's compiled one."""
import sys
import time

import torch
import torch.nn.functional as F
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from torch import nn

SHAPES = {"smollm2-135m": (576, 1536, 30, 9, 3, 49152), "llamba-1b": (2048, 8192, 16, 32, 8, 128256)}
name, batch, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
compiled = "compile" in sys.argv
D, MLP, LAYERS, HEADS, KV, VOCABULARY = SHAPES[name]
P = D // HEADS
torch.manual_seed(0)


def linear(inner, outer):
    return nn.Linear(inner, outer, bias=False)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = linear(D, (HEADS + 2 * KV) * P), linear(D, D)
        angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, P, 2) / P)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turned(self, x):
        u, v = x.chunk(2, -1)
        return torch.cat([u * self.cos - v * self.sin, v * self.cos + u * self.sin], -1)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, -1, P).transpose(1, 2).split([HEADS, KV, KV], 1)
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(b, t, D))


class Mamba(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = linear(D, 4 * D + HEADS), linear(D, D)
        self.conv = nn.Conv1d(3 * D, 3 * D, 4, groups=3 * D, padding=3)
        self.z_bias, self.skip = nn.Parameter(torch.zeros(D)), nn.Parameter(torch.ones(HEADS))
        self.register_buffer("rate", -torch.ones(HEADS))

    def forward(self, u):
        b, t, _ = u.shape
        xbc, z, a = self.into(u).split([3 * D, D, HEADS], -1)
        xbc = self.conv(xbc.transpose(1, 2))[..., :t].transpose(1, 2)
        x, keys, queries = (part.reshape(b, t, HEADS, P) for part in xbc.chunk(3, -1))
        dt = F.softplus(a)
        y = mamba_chunk_scan_combined(x / dt.unsqueeze(-1), dt, self.rate, keys, queries, 128, D=None)
        y = y + x * self.skip[:, None]
        return self.out(y.reshape(b, t, D) * F.silu(z + self.z_bias))


class Block(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.mixer, self.norms = mixer(), nn.ModuleList([nn.RMSNorm(D, eps=1e-5) for _ in range(2)])
        self.gate, self.up, self.down = linear(D, MLP), linear(D, MLP), linear(MLP, D)

    def forward(self, x):
        x = x + self.mixer(self.norms[0](x))
        h = self.norms[1](x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, D)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks, self.norm = nn.ModuleList([Block(mixer) for _ in range(LAYERS)]), nn.RMSNorm(D, eps=1e-5)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def made(mixer):
    model = Model(mixer).to("cuda", torch.bfloat16)
    return torch.compile(model) if compiled else model


teacher, student = made(Attention).requires_grad_(False), made(Mamba)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
tokens = torch.randint(0, VOCABULARY, (batch, length), device="cuda")


def distance(student, teacher):
    return -(teacher.float().softmax(-1) * student.float().log_softmax(-1)).sum(-1).mean()


if compiled:
    distance = torch.compile(distance)


def step():
    with torch.no_grad():
        target = teacher(tokens)
    loss = distance(student(tokens), target)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss), float(norm)  # waits, as a training loop that reports does


seconds = []
for _ in range(12):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
median = sorted(seconds[6:])[3]
peak = torch.cuda.max_memory_allocated() / 1e9
print(f"| {name} {batch} x {length}{' compiled' if compiled else ''} | {median * 1e3:.1f} ms | {batch * length / median:.0f} tokens/s | {peak:.1f} GB |")
