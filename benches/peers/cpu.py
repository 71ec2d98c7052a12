"""transformers on the CPU at the shapes of mamba2-130m and SmolLM2-135M, f32, random weights: prefill of 512 tokens, decoding
of 1 and 8 rows after 128 tokens (SmolLM2 also after 1024 and 8192), medians of three runs; and PyTorch's f32 product.

    python cpu.py [THREADS]

Needs torch and transformers (measured with 2.9.1 and 5.23.0)."""
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM

STEPS = 8
torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)


def median(call, runs=3):
    call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[runs // 2]


def measure(name, model, contexts):
    model = model.eval()
    vocabulary = model.config.vocab_size
    prompt = torch.arange(512).remainder(vocabulary)[None]
    seconds = median(lambda: model(prompt, logits_to_keep=1))
    print(f"{name}: prefill 512: {512 / seconds:.1f} tokens/s", flush=True)
    for context in contexts:
        for rows in [1, 8] if context == 128 else [1]:
            tokens = torch.arange(context).remainder(vocabulary).repeat(rows, 1)
            kept = model(tokens, use_cache=True, logits_to_keep=1)
            cache = {"cache_params": kept.cache_params} if "cache_params" in kept else {"past_key_values": kept.past_key_values}
            token = torch.zeros(rows, 1, dtype=torch.long)

            def steps():
                for _ in range(STEPS):
                    model(token, use_cache=True, **cache)

            seconds = median(steps)
            print(f"{name}: decode {rows} rows after {context}: {rows * STEPS / seconds:.1f} tokens/s", flush=True)


with torch.inference_mode():
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, product {2 * 2048**3 / median(lambda: a @ b) / 1e9:.0f} GFLOP/s")
    mamba2 = Mamba2Config(
        hidden_size=768, num_hidden_layers=24, state_size=128, head_dim=64, num_heads=24, n_groups=1, vocab_size=50288,
        chunk_size=256, tie_word_embeddings=True,
    )
    measure("mamba2-130m", Mamba2ForCausalLM(mamba2), [128])
    smollm2 = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, max_position_embeddings=32768, tie_word_embeddings=True, rope_theta=100000.0,
    )
    measure("smollm2-135m", LlamaForCausalLM(smollm2), [128, 1024, 8192])
