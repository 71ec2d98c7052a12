"""One decoding step in PyTorch, random weights in bf16: eagerly and as one CUDA graph. Medians of event-timed calls, beside the fewest
bytes a step can move at the copy bandwidth measured first.

    decode.py                       Llamba-1B with Triton's state update, and Llama-3.2-1B
    decode.py llamba                Llamba-1B alone
    decode.py llama 1b              a Transformer alone, with SDPA over a static cache: 1b, 3b, or reasoner, the teacher of docs/reasoning.md;
                                    of batches that are not too large for the card

Llamba needs what ssd.py needs."""
import sys

import torch
import torch.nn.functional as F
from triton.testing import do_bench

SHAPES = {
    "1b": (16, 2048, 8192, 128256, 32, 8, 64),
    "3b": (28, 3072, 8192, 128256, 24, 8, 128),
    "reasoner": (8, 384, 1024, 512, 12, 12, 32),
}
KIND, SHAPE = sys.argv[1:] + [None, "1b"][len(sys.argv) - 1 :]
LAYERS, D, MLP, VOCABULARY, HEADS, KV_HEADS, P = SHAPES[SHAPE]
N = 64
if KIND != "llama":
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update
torch.manual_seed(0)


def median(call):
    return do_bench(call, warmup=50, rep=200, return_mode="median")


def weight(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


def zeros(*shape, dtype=torch.bfloat16):
    return torch.zeros(*shape, device="cuda", dtype=dtype)


def norm(x, scale):
    return F.rms_norm(x, (x.shape[-1],), scale, 1e-5)


class Llamba:
    """A mixer of Llamba, its window and its state."""

    channels = D + 2 * HEADS * N

    def __init__(self, batch, _context):
        c = self.channels
        self.weights = [weight(D + c + HEADS, D), weight(c, 4), weight(c), weight(D), weight(D, D)]
        self.states = [zeros(batch, c, 4), zeros(batch, HEADS, P, N, dtype=torch.float32)]
        self.rate = -torch.ones(HEADS, device="cuda")[:, None, None].expand(HEADS, P, N)
        self.none = torch.zeros(HEADS, device="cuda")[:, None].expand(HEADS, P)

    def step(self, u):
        (into, taps, bias, z_bias, out), (window, state) = self.weights, self.states
        b = u.shape[0]
        xbc, z, a = torch.split(F.linear(u, into), [self.channels, D, HEADS], -1)
        window.copy_(torch.roll(window, -1, -1))
        window[:, :, -1] = xbc
        x, keys, queries = torch.split((window * taps).sum(-1) + bias, [D, HEADS * N, HEADS * N], -1)
        x = x.view(b, HEADS, P)
        scaled, dt = x / F.softplus(a).unsqueeze(-1), a.unsqueeze(-1).expand(-1, -1, P)
        keys, queries = keys.view(b, HEADS, N), queries.view(b, HEADS, N)
        y = selective_state_update(
            state, scaled, dt, self.rate, keys, queries, D=self.none, dt_bias=self.none, dt_softplus=True
        )
        return F.linear((y + x).reshape(b, D) * F.silu(z + z_bias), out)

    def bytes(self):
        return 2 * sum(state.numel() * state.element_size() for state in self.states)


class Llama:
    """Grouped-query attention over a cache of `context` tokens."""

    def __init__(self, batch, context):
        self.weights = [weight((HEADS + 2 * KV_HEADS) * P, D), weight(D, HEADS * P)]
        self.states = [zeros(batch, KV_HEADS, context, P), zeros(batch, KV_HEADS, context, P)]

    def step(self, u):
        (into, out), (keys, values) = self.weights, self.states
        b = u.shape[0]
        q, k, v = torch.split(F.linear(u, into), [HEADS * P, KV_HEADS * P, KV_HEADS * P], -1)
        keys[:, :, -1], values[:, :, -1] = k.view(b, KV_HEADS, P), v.view(b, KV_HEADS, P)
        q = q.view(b, KV_HEADS, HEADS // KV_HEADS, P)  # the queries of a group share their key head
        return F.linear(F.scaled_dot_product_attention(q, keys, values).reshape(b, HEADS * P), out)

    def bytes(self):
        return sum(state.numel() * state.element_size() for state in self.states)


@torch.no_grad()
def measure(mixer, batch, context, bandwidth):
    mixers = [mixer(batch, context) for _ in range(LAYERS)]
    mlps = [(weight(2 * MLP, D), weight(D, MLP)) for _ in range(LAYERS)]
    scale, embedding = torch.ones(D, device="cuda", dtype=torch.bfloat16), weight(VOCABULARY, D)
    tokens = torch.zeros(batch, device="cuda", dtype=torch.long)

    def step():
        hidden = embedding[tokens]
        for mixer, (up, down) in zip(mixers, mlps):
            hidden = hidden + mixer.step(norm(hidden, scale))
            gate, value = F.linear(norm(hidden, scale), up).chunk(2, -1)
            hidden = hidden + F.linear(F.silu(gate) * value, down)
        tokens.copy_(F.linear(norm(hidden, scale), embedding).argmax(-1))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    weights = [w for m in mixers for w in m.weights] + [w for mlp in mlps for w in mlp] + [embedding]
    moved = 2 * sum(w.numel() for w in weights) + sum(m.bytes() for m in mixers)
    return median(graph.replay), median(step), moved / bandwidth * 1e3


print(torch.cuda.get_device_name(), torch.__version__)
source = torch.randn(2**30, device="cuda", dtype=torch.bfloat16)
target = torch.empty_like(source)
bandwidth = 4 * source.numel() / median(lambda: target.copy_(source)) * 1e3
del source, target
print(f"copy {bandwidth / 1e12:.2f} TB/s\n\n| | batch | context | graph ms | eager ms | floor ms |\n|---|---:|---:|---:|---:|---:|")
if KIND == "llama":
    cases = [(Llama, batch, context) for context in (256, 1024, 4096) for batch in (1, 16, 64, 256, 1024, 4096)]
else:
    cases = [(Llamba, batch, 0) for batch in (1, 16, 64, 256, 512)]
if KIND is None:
    contexts = [(1, 2048), (16, 2048), (64, 2048), (256, 2048), (1, 8192), (16, 8192), (64, 8192)]
    cases += [(Llama, batch, context) for batch, context in contexts]
for mixer, batch, context in cases:
    try:
        graph, eager, floor = measure(mixer, batch, context, bandwidth)
        print(f"| {mixer.__name__} | {batch} | {context} | {graph:.2f} | {eager:.2f} | {floor:.2f} |", flush=True)
    except torch.OutOfMemoryError:
        print(f"| {mixer.__name__} | {batch} | {context} | out of memory | | |", flush=True)
    torch.cuda.empty_cache()
