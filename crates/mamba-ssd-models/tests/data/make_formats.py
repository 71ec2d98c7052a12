"""Writes the files of other formats beside this script: torch.save's, and GGUF's quantised blocks.

Run with torch, numpy, safetensors and gguf from PyPI; versions are in README.md.
"""

import json
import pathlib

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file

here = pathlib.Path(__file__).parent


def state_spaces():
    """mamba2_g1 as state-spaces saves its models: f16 beside f32, one storage for embedding and head."""
    tensors = load_file(here / "mamba2_g1.weights.safetensors")
    tensors = {key.replace("embeddings.", "embedding."): tensor for key, tensor in tensors.items()}
    tensors.pop("lm_head.weight", None)
    tensors = {key: tensor if key.endswith(".D") else tensor.half() for key, tensor in tensors.items()}
    save_file(tensors, here / "state_spaces.safetensors", {"format": "pt"})
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    torch.save(tensors, here / "state_spaces.bin")
    torch.save(tensors, here / "state_spaces.old.bin", _use_new_zipfile_serialization=False)
    config = json.loads((here / "mamba2_g1.config.json").read_text())
    ours = {
        "d_model": config["hidden_size"], "n_layer": config["num_hidden_layers"], "vocab_size": config["vocab_size"],
        "pad_vocab_size_multiple": 1, "tie_embeddings": True, "rms_norm": True,
        "ssm_cfg": {"layer": "Mamba2", "d_state": config["state_size"], "headdim": config["head_dim"],
                    "ngroups": config["n_groups"], "chunk_size": config["chunk_size"], "expand": config["expand"]},
    }
    (here / "state_spaces.config.json").write_text(json.dumps(ours, indent=1) + "\n")


# Bytes of a block, and where its f16 scales are: quantize() does not know these types, so the blocks are made here.
K_QUANTS = {Type.Q2_K: (84, (80, 82)), Type.Q3_K: (110, (108,)), Type.Q4_K: (144, (0, 2)),
            Type.Q5_K: (176, (0, 2)), Type.Q6_K: (210, (208,))}


def blocks():
    """Two rows of 512 numbers in every type, and what the gguf package makes of them."""
    rng = np.random.default_rng(7)
    writer = GGUFWriter(here / "quants.gguf", "llama")
    writer.add_array("test.list", [1, 2, 3])
    golden = {}
    for kind in [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]:
        data = quantize(rng.standard_normal((2, 512)).astype(np.float32), kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        golden[kind.name] = dequantize(data, kind).astype(np.float32)
    for kind, (size, scales) in K_QUANTS.items():
        data = rng.integers(0, 256, (2, 2, size), dtype=np.uint8)
        for place in scales:
            scale = rng.uniform(0.01, 0.1, (2, 2)).astype(np.float16)
            data[:, :, place:place + 2] = scale.view(np.uint8).reshape(2, 2, 2)
        data = data.reshape(2, 2 * size)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        golden[kind.name] = dequantize(data, kind).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in golden.items()},
              here / "quants.golden.safetensors")


def tiny_gguf():
    """A Llama of one layer in Q8_0, with a byte-level vocabulary and a chat template."""
    rng = np.random.default_rng(11)
    writer = GGUFWriter(here / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    characters = bytes_to_unicode()
    tokens = [characters[byte] for byte in range(256)] + ["<|end|>", "he", "ll", "hell"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] + [1] * 3)
    writer.add_token_merges(["h e", "l l", "he ll"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    writer.add_chat_template("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]")
    shapes = {"token_embd": (len(tokens), 32), "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32),
              "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    for name, shape in shapes.items():
        data = quantize(rng.standard_normal(shape).astype(np.float32), Type.Q8_0)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=Type.Q8_0)
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
        writer.add_tensor(f"{name}.weight", rng.uniform(0.5, 1.5, 32).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bytes_to_unicode():
    """GPT-2's printable stand-in for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def tiny_mlx():
    """A Llamba of one layer as MLX files have it: 8 bits, groups of 32 columns."""
    rng = np.random.default_rng(13)
    tensors = {}

    def matrix(name, rows, columns):
        values = rng.standard_normal((rows, columns // 32, 32)).astype(np.float32)
        low = values.min(-1)
        scale = (values.max(-1) - low) / 255
        codes = np.round((values - low[..., None]) / scale[..., None]).astype(np.uint8).reshape(rows, columns)
        tensors[f"{name}.weight"] = codes.view(np.uint32)
        tensors[f"{name}.scales"], tensors[f"{name}.biases"] = scale.astype(np.float16), low.astype(np.float16)

    def plain(name, *shape):
        tensors[name] = rng.standard_normal(shape).astype(np.float16)

    d, heads, state, d_mlp = 32, 4, 8, 64
    plain("embedding.encoder.weight", 40, d)
    matrix("model.layers.0.layer.in_proj", 2 * d + 2 * heads * state + heads, d)
    matrix("model.layers.0.layer.out_proj", d, d)
    plain("model.layers.0.layer.conv_weight", d + 2 * heads * state, 4)
    plain("model.layers.0.layer.conv_bias", d + 2 * heads * state)
    plain("model.layers.0.layer.z_bias", d)
    plain("model.layers.0.layer.D", heads)
    matrix("model.layers.1.layer.in_proj", d_mlp, d)
    matrix("model.layers.1.layer.gate_proj", d_mlp, d)
    matrix("model.layers.1.layer.out_proj", d, d_mlp)
    for name in ["model.layers.0.norm", "model.layers.1.norm", "model.norm"]:
        plain(f"{name}.weight", d)
    matrix("head.linear", 40, d)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()}
    metadata = {"_class_": '"models.llamba.Llamba"', "quantization_kwargs.bits": "8",
                "quantization_kwargs.group_size": "32"}
    save_file(tensors, here / "tiny.mlx.safetensors", metadata)


state_spaces()
blocks()
tiny_gguf()
tiny_mlx()
