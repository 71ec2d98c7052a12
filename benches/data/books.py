"""Training and held-out texts of docs/results.md from a clone of github.com/mlschmitt/classic-books-markdown and three files of this study's data:
the validation books and GSM8K's training problems, as JSON lines.

    python3 benches/data/books.py CLONE books-valid.jsonl gsm8k-train.jsonl [MILLIONS]

Writes train.jsonl (130 or MILLIONS million characters of books that are dated up to 1928 or not at all, none of the validation books, in pieces of
about 12,000 characters, and the problems by tens) and valid.jsonl (pieces of 8,000)."""
import json
import random
import re
import sys
from pathlib import Path

clone, valid_path, gsm8k_path = map(Path, sys.argv[1:4])
limit = float(sys.argv[4] if len(sys.argv) > 4 else 130) * 1e6
random.seed(0)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, texts):
    with open(path, "w") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def pieces(text):
    piece, size = [], 0
    for paragraph in text.split("\n\n"):
        piece.append(paragraph)
        size += len(paragraph) + 2
        if size > 12_000:
            yield "\n\n".join(piece)
            piece, size = [], 0
    if size > 500:
        yield "\n\n".join(piece)


valid = lines(valid_path)
held_out = [book["title"].lower() for book in valid]
books = []
for path in sorted(clone.glob("*/*.md")):
    title, text = path.stem.lower(), path.read_text(errors="replace")
    year = re.search(r"(1[5-9]\d\d|20\d\d)", text[:400])
    if not any(name in title or title in name for name in held_out) and not (year and int(year[1]) > 1928):
        books.append(text)

train, size = [], 0
parts = [piece for book in books for piece in pieces(book)]
random.shuffle(parts)
for piece in parts:
    train.append(piece)
    size += len(piece)
    if size > limit:
        break
problems = [f"Question: {problem['question']}\nAnswer: {problem['answer']}" for problem in lines(gsm8k_path)]
random.shuffle(problems)
train += ["\n\n".join(problems[i : i + 10]) for i in range(0, len(problems), 10)]
random.shuffle(train)
write("train.jsonl", train)
write("valid.jsonl", [book["text"][i : i + 8000] for book in valid for i in range(0, len(book["text"]), 8000)])
