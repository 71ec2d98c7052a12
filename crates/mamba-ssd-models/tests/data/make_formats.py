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


state_spaces()
blocks()
