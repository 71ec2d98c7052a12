"""Checkpoints by other people's software: references for `mamba-ssd compare`, and the reading of what we write.

Needs torch, transformers, safetensors, gguf and numpy from PyPI.

    checkpoints.py gguf MODEL.gguf OUT.safetensors       a Llama of llama.cpp, by numpy: logits of one sentence
    checkpoints.py read FOLDER OUT.safetensors           a folder that we wrote, by transformers: logits, hidden states
    checkpoints.py load FOLDER                           seconds and peak memory to load it
    checkpoints.py big OUT GIGABYTES                     a Llama of random bf16 weights, in safetensors
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np


def gguf(path, out):
    """A plain forward pass in f32 over the tensors that the gguf package dequantises."""
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    reader = GGUFReader(path)
    field = lambda name: reader.fields[name].contents()
    layers, heads, kv = field("llama.block_count"), field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    eps, theta = field("llama.attention.layer_norm_rms_epsilon"), field("llama.rope.freq_base")
    w = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    d = w["token_embd.weight"].shape[1]
    head = d // heads

    def rms(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale

    def rotate(x):  # neighbours are a pair in the rows of a llama file
        t = np.arange(x.shape[0])
        angle = t[:, None] * theta ** (-np.arange(0, head, 2) / head)
        c, s = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)

    ids = np.array([[504, 3575, 282, 4649, 314], [5, 4, 3, 2, 1]])  # "The capital of France is", and anything
    found = {"logits": [], **{f"hidden_states.{i}": [] for i in range(layers + 1)}}
    for row in ids:
        x = w["token_embd.weight"][row]
        found["hidden_states.0"].append(x)
        mask = np.triu(np.full((len(row), len(row)), -np.inf), 1)
        for i in range(layers):
            get = lambda name: w[f"blk.{i}.{name}.weight"]
            h = rms(x, get("attn_norm"))
            q = rotate((h @ get("attn_q").T).reshape(-1, heads, head)).transpose(1, 0, 2)
            k = rotate((h @ get("attn_k").T).reshape(-1, kv, head)).transpose(1, 0, 2).repeat(heads // kv, 0)
            v = (h @ get("attn_v").T).reshape(-1, kv, head).transpose(1, 0, 2).repeat(heads // kv, 0)
            p = q @ k.transpose(0, 2, 1) / np.sqrt(head) + mask
            p = np.exp(p - p.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            x = x + (p @ v).transpose(1, 0, 2).reshape(len(row), -1) @ get("attn_output").T
            h = rms(x, get("ffn_norm"))
            gate = h @ get("ffn_gate").T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ get("ffn_up").T)) @ get("ffn_down").T
            found[f"hidden_states.{i + 1}"].append(x)
        found["logits"].append(rms(x, w["output_norm.weight"]) @ w.get("output.weight", w["token_embd.weight"]).T)
    tensors = {key: np.stack(value).astype(np.float32) for key, value in found.items()}
    save_file({"input_ids": ids.astype(np.int64), **tensors}, out)


def read(folder, out):
    """What transformers makes of a folder; hidden states before the final norm only."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(3)
    ids = torch.randint(0, model.config.vocab_size, (2, 17))
    with torch.no_grad():
        result = model(ids, output_hidden_states=True)
    hidden = result.hidden_states[:-1]  # the last one is behind the final norm
    if model.config.model_type == "mamba2":  # lists outputs of layers, without the embedding
        hidden = [model.backbone.embeddings(ids), *hidden]
    tensors = {f"hidden_states.{i}": state.contiguous().clone() for i, state in enumerate(hidden)}
    save_file({"input_ids": ids, "logits": result.logits.contiguous(), **tensors}, out)


def load(folder):
    import torch
    from transformers import AutoModelForCausalLM

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before, start = peak(), time.perf_counter()
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_bytes": peak(), "before_bytes": before}))


def big(out, gigabytes):
    import torch
    from safetensors.torch import save_file

    d, vocabulary, mlp = 2048, 32000, 8192
    layer = 2 * d * d + 2 * d * 512 + 3 * d * mlp
    layers = max(1, round((float(gigabytes) * 1e9 / 2 - vocabulary * d) / layer))
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    random = lambda *shape: (torch.randn(*shape) * 0.02).bfloat16()
    tensors = {"model.embed_tokens.weight": random(vocabulary, d), "model.norm.weight": random(d)}
    for i in range(layers):
        shapes = {"self_attn.q_proj": (d, d), "self_attn.k_proj": (512, d), "self_attn.v_proj": (512, d),
                  "self_attn.o_proj": (d, d), "mlp.gate_proj": (mlp, d), "mlp.up_proj": (mlp, d), "mlp.down_proj": (d, mlp),
                  "input_layernorm": (d,), "post_attention_layernorm": (d,)}
        tensors |= {f"model.layers.{i}.{name}.weight": random(*shape) for name, shape in shapes.items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": d,
              "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8,
              "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "rope_theta": 10000.0,
              "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
    (out / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    {"gguf": gguf, "read": read, "load": load, "big": big}[sys.argv[1]](*sys.argv[2:])
