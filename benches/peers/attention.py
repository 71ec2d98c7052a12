"""PyTorch's fused attention at the shapes of tests/src/bin/attention.rs: medians of event-timed calls, in bf16."""
import re
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from triton.testing import do_bench

source = (Path(__file__).parents[2] / "tests/src/bin/attention.rs").read_text()
shapes = [
    (name, *map(int, sizes.split(",")))
    for name, sizes in re.findall(r'\("([^"]+)", \[([\d, ]+)\]\)', source)
]


def median(call):
    return do_bench(call, warmup=50, rep=200, return_mode="median")


def measure(b, t, h, kv, d):
    def normal(heads):
        return torch.randn(b, heads, t, d, device="cuda", dtype=torch.bfloat16).requires_grad_()

    q, k, v = normal(h), normal(kv), normal(kv)

    def forward():
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    with torch.no_grad():
        forward_ms = median(forward)
    y = forward()
    cotangent = torch.randn_like(y)
    return forward_ms, median(lambda: torch.autograd.grad(y, (q, k, v), cotangent, retain_graph=True))


print(torch.cuda.get_device_name(), torch.__version__)
for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
    print(f"\n{backend}\n\n| | b t h kv d | forward ms | reverse ms |\n|---|---|---:|---:|")
    for name, *sizes in shapes:
        try:
            with sdpa_kernel(backend):
                forward, reverse = measure(*sizes)
        except RuntimeError as error:
            print(f"| {name} | {' '.join(map(str, sizes))} | {str(error).splitlines()[0]} | |")
            continue
        print(f"| {name} | {' '.join(map(str, sizes))} | {forward:.3f} | {reverse:.3f} |", flush=True)
