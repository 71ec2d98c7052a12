"""Openings of texts for the teacher to continue as they stand, one of the sources of docs/results.md: half of them common first words, half the first
words of paragraphs of other texts.

    python3 benches/data/openings.py COUNT SEED modern.jsonl > openings.jsonl
    mamba-ssd generate --model TEACHER --prompts openings.jsonl --raw --echo -n 8 --batch 768 --max-tokens 512 --temperature 1 --min-p 0.02 --json > texts.jsonl
"""
import json
import random
import sys

FIRST = """How to|How do you|Why do|Why is the|What is|What are the|The best way to|If you want to|When you|When I was|A man|A woman|A boy is|Two people are|She|He|They|We
I|You|It was|It is|There was|There are many|In this lesson, we will|In the morning,|In the kitchen,|On the road,|At the end of|At first|After the|Before you|Every day|Every year,
To make|To clean|To fix a|To build a|To cook|To store|First,|Step 1:|Take a|Put the|Place the|Use a|Cut the|Keep your|Make sure|Do not|Never|Always|Most people|Some people
Scientists|Students|Children|Animals|Plants|Water|The Earth|The sun|The heart|The brain|The water cycle|The first|The most important|The history of|The story of|The city of
The door|The old man|The little girl|The dog|The teacher said|"I don't know,"|"Where are you|"What do you mean|My mother|My friend|Our|His|Her|Last night|Yesterday|Today
Once upon a time,|Long ago,|During the|According to|Because|Although|While|For example,|For many people,|One day,|One of the|Have you ever|Do you know|Did you know that
Energy|Electricity|Light|Heat|Sound|Metals|Rocks|Weather|Many animals|Many plants|A cell|An atom|A force|A magnet|A good|A simple|A new|An old|Food|Cooking|Gardening
Travel to|Welcome to|Learn how to|Learning|Reading|Health|Exercise|Sleep|Money|Saving|Buying a|Working|The car|The house|The team|The game|The player|The company|The government
Then he|Then she|So|But|And|Finally,|Next,|Now|Here is|This is|These|That|People|In 1|In the 19th century,|In the United States,|In science,|In physics,|In biology,""".replace("\n", "|").split("|")

count, seed = int(sys.argv[1]), int(sys.argv[2])
paragraphs = [part for line in open(sys.argv[3]) for part in json.loads(line)["text"].split("\n") if len(part) > 200]
draw = random.Random(seed)
for i in range(count):
    words = draw.choice(paragraphs).split()[: draw.randint(4, 16)] if i % 2 else [draw.choice(FIRST)]
    print(json.dumps({"prompt": " ".join(words)}))
