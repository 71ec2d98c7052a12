"""A stage of MOHAWK at the shapes of examples/training.rs in PyTorch with Triton's SSD: teacher (SDPA) without gradients, student forward and
backward, fused AdamW. Random weights in bf16, moments too; medians of steps with a wait each.

    python3 benches/peers/training.py smollm2-135m 16 1024 [matrices|hidden|logits] [compile]

Stages 1 and 2 train the mixers alone, every layer on the teacher's input of that layer and with a backward pass of its own:
matrices  Frobenius distances of attention's matrices from the student's, mean over heads; both in memory, their entries in f32
hidden    distances of the blocks' outputs, mean over tokens
logits    (without an argument) everything, end to end: cross entropy against the teacher's softmax

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
stage = ([word for word in sys.argv[4:] if word != "compile"] or ["logits"])[0]
D, MLP, LAYERS, HEADS, KV, VOCABULARY = SHAPES[name]
P = D // HEADS
torch.manual_seed(0)
# torch.compile does not run the hooks of its kernels, so the scan stays as it is.
scan = torch.compiler.disable(mamba_chunk_scan_combined) if compiled else mamba_chunk_scan_combined
if stage == "matrices":
    later, not_earlier = (torch.ones(length, length, dtype=torch.bool, device="cuda").triu(offset) for offset in (1, 0))


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

    def heads(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, -1, P).transpose(1, 2).split([HEADS, KV, KV], 1)
        return self.turned(q), self.turned(k), v

    def mixed(self, q, k, v):
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))

    def matrix(self, q, k):
        scores = q * P**-0.5 @ k.repeat_interleave(HEADS // KV, 1).transpose(-1, -2)
        return scores.masked_fill_(later, -torch.inf).softmax(-1, dtype=torch.float32)

    def forward(self, x):
        return self.mixed(*self.heads(x))


class Mamba(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = linear(D, 4 * D + HEADS), linear(D, D)
        self.conv = nn.Conv1d(3 * D, 3 * D, 4, groups=3 * D, padding=3)
        self.z_bias, self.skip = nn.Parameter(torch.zeros(D)), nn.Parameter(torch.ones(HEADS))
        self.register_buffer("rate", -torch.ones(HEADS))

    def projected(self, u):
        b, t, _ = u.shape
        xbc, z, a = self.into(u).split([3 * D, D, HEADS], -1)
        xbc = self.conv(xbc.transpose(1, 2))[..., :t].transpose(1, 2)
        x, keys, queries = (part.reshape(b, t, HEADS, P) for part in xbc.chunk(3, -1))
        return x, keys, queries, z, a

    def matrix(self, u):
        _, keys, queries, _, a = self.projected(u)
        logs = -F.softplus(a.float()).transpose(1, 2).unsqueeze(-1)
        sums = torch.where(not_earlier, 0.0, logs).cumsum(-2)  # the segsum of mamba_ssm and of MOHAWK's authors
        decays = sums.masked_fill_(later, -torch.inf).exp_()
        matrix = queries.transpose(1, 2) @ keys.permute(0, 2, 3, 1) * decays
        matrix.diagonal(dim1=-2, dim2=-1).add_(self.skip[:, None])
        return matrix

    def forward(self, u):
        x, keys, queries, z, a = self.projected(u)
        dt = F.softplus(a)
        y = scan(x / dt.unsqueeze(-1), dt, self.rate, keys, queries, 128, D=None)
        y = y + x * self.skip[:, None]
        return self.out(y.flatten(2) * F.silu(z + self.z_bias))


class Block(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.mixer, self.norms = mixer(), nn.ModuleList([nn.RMSNorm(D, eps=1e-5) for _ in range(2)])
        self.gate, self.up, self.down = linear(D, MLP), linear(D, MLP), linear(MLP, D)

    def forward(self, x):
        mixed = self.mixer(self.norms[0](x))
        return self.after(x, mixed)

    def after(self, x, mixed):
        x = x + mixed
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
    return torch.compile(model) if compiled and stage == "logits" else model


def distance(student, teacher):
    return -(teacher.float().softmax(-1) * student.float().log_softmax(-1)).sum(-1).mean()


def with_matrix(block, x, last):
    """What the student's layer is held against, and the input of the next layer, which the last has none of."""
    q, k, v = block.mixer.heads(block.norms[0](x))
    return block.mixer.matrix(q, k), None if last else block.after(x, block.mixer.mixed(q, k, v))


def with_output(block, x, last):
    y = block(x)
    return y, y


def matrices_apart(block, x, target):
    return torch.linalg.matrix_norm(block.mixer.matrix(block.norms[0](x)) - target).mean()


def outputs_apart(block, x, target):
    y = block(x)
    return torch.linalg.vector_norm(y.float() - target.float(), dim=-1).mean()


taught, apart = {"matrices": (with_matrix, matrices_apart), "hidden": (with_output, outputs_apart), "logits": (None, None)}[stage]
if compiled:
    distance, taught, apart = (f and torch.compile(f) for f in (distance, taught, apart))
teacher, student = made(Attention).requires_grad_(False), made(Mamba)
if stage != "logits":
    student.requires_grad_(False)
    for block in student.blocks:
        block.mixer.requires_grad_()
trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
tokens = torch.randint(0, VOCABULARY, (batch, length), device="cuda")


def whole():
    with torch.no_grad():
        target = teacher(tokens)
    loss = distance(student(tokens), target)
    loss.backward()
    return loss


def by_layers():
    x, terms = teacher.embedding(tokens), []
    for layer, (of_teacher, of_student) in enumerate(zip(teacher.blocks, student.blocks)):
        with torch.no_grad():
            target, following = taught(of_teacher, x, layer == LAYERS - 1)
        loss = apart(of_student, x, target)
        loss.backward()
        terms.append(loss.detach())
        x = following
    return torch.stack(terms).sum()


def step():
    loss = whole() if stage == "logits" else by_layers()
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(float(loss))
    return losses[-1], float(norm)  # waits, as a training loop that reports does


losses = []
seconds = []
for _ in range(12):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
median = sorted(seconds[6:])[3]
peak = torch.cuda.max_memory_allocated() / 1e9
row = f"| {name} {batch} x {length} {stage}{' compiled' if compiled else ''} | {median * 1e3:.1f} ms | {batch * length / median:.0f} tokens/s"
print(f"{row} | {peak:.1f} GB | {losses[0]:.3f} to {losses[-1]:.3f} |")
