"""Prompts for texts that the teacher writes itself, one of the sources of docs/results.md: scenes with names and things that come again, and some
letters, articles and explanations.

    python3 benches/data/stories.py COUNT SEED > prompts.jsonl
    mamba-ssd generate --model TEACHER --chat --prompts prompts.jsonl -n 8 --batch 512 --max-tokens 800 --temperature 0.8 --min-p 0.03 --json > texts.jsonl
"""
import json
import random
import sys

NAMES = """Anna Ruth Cole Maria Daniel Priya Tom Elena Marcus Grace Owen Lucy Samuel Nadia Henry Clara Jonah Mei Victor Rosa Ethan Ivy Karim Nora Felix Hannah
Leo Sofia Arthur June Dmitri Alice Malik Ellen Hugo Tessa Ravi Martha Simon Zoe Patrick Amara Walter Lena Isaac Bea Gordon Yuki Frank Dana Theo Mabel Rashid
Carol Eli Freya Oscar Julia Sam Imani Paul Greta Noah Violet Jack Teresa Adam Kate""".split()
ROLES = """a detective|a gardener|a ship's captain|a young nurse|an old teacher|a taxi driver|a shopkeeper|a soldier on leave|a lawyer|a violin maker|a farmer|a thief
a librarian|a pilot|a cook|a widow|a night watchman|a student|a doctor|a fisherman|a journalist|a priest|a mechanic|an actress|a retired boxer|a tailor|a mayor
a mountain guide|a piano teacher|a carpenter|a prisoner|an engineer|a waitress|a photographer|a judge|a bus driver""".replace("\n", "|").split("|")
THINGS = """a lost key|an old letter|a broken watch|a red suitcase|a dog that will not leave|a photograph|a stolen painting|a silver ring|a locked door|a map|a borrowed coat
a wedding dress|a knife|a radio|a bag of money|a diary|a ladder|a boat|a bicycle|a music box|a jar of honey|a lamp|a telephone that rings at night|a horse
a birthday cake|a ticket|a pair of glasses|a gun|a piano|a hidden room|a phone message|a scar|a kite|an umbrella|a chess set""".replace("\n", "|").split("|")
PLACES = """in a small town by the sea|on a night train|in a hospital corridor|at a funeral|in a kitchen before dawn|at a lonely farm|in a crowded market|on a bridge
in a courtroom|at a school reunion|in a snowed-in hotel|on a ship|in an old theatre|at a bus stop in the rain|in an attic|in a prison yard|at a county fair
in an empty office|in a desert camp|at the edge of a forest|in a bakery|in the back of a taxi|on a rooftop|in a church|at an airport|in a library at night
beside a river|in a hospital garden|at a wedding|in a village pub""".replace("\n", "|").split("|")
FORMS = """Write a scene of a novel with dialogue: {a}, {role}, and {b} talk {place} about {thing}.
Write a short story {place}. {a} and {b} find {thing}. Let them speak with each other, and name them often.
Write the beginning of a novel {place}: {a} tells {b} about {thing}, and {c} listens.
Continue this story: "I never meant to take {thing}," {a} said. {b} looked at {role} who stood {place}.
Write a page of a thriller: {a}, {role}, hides {thing} from {b} {place}.
Write a quiet story about {a}, {role}, who gets {thing} from {b} after many years.
Write a funny story: {a} wants {thing}, {b} has it, and {c} ruins everything {place}.
Write a quarrel between {a} and {b} {place}, and how {c} ends it with {thing}.
Write a letter from {a}, {role}, to {b} about {thing}.
Write a story for children: {a} and {b} lose {thing} {place} and find it again.
Write a chapter in which {a} says goodbye to {b} {place}; {thing} matters.
Tell in the first person how I, {role} named {a}, met {b} {place}.""".split("\n")
TOPICS = """how bread is baked|why the sky is blue|how to repair a bicycle|what makes a good friend|how vaccines work|why people keep diaries|how to plant tomatoes|what a bank does
how bees live|why the sea is salty|how to prepare for an interview|what a judge does|how volcanoes erupt|how to calm a crying child|why cities grow near rivers
how to choose a used car|what happened on a market day|how glass is made|why we sleep|how to write a letter of complaint|how a bill becomes law|how to clean a kitchen
why leaves change colour|how a camera works|what to see in an old town|how to save money|how the heart works|why languages change|how to train a dog""".replace("\n", "|").split("|")
OTHERS = """Explain to {a}, {role}, {topic}.
Write a newspaper article by {a} about {topic}.
Write a talk between {a} and {b}, who do not agree on {topic}.
Write step by step {topic}, with mistakes that {a} once made.
Write an essay on {topic}.""".split("\n")

count, seed = int(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)
for _ in range(count):
    a, b, c = draw.sample(NAMES, 3)
    form = draw.choice(FORMS if draw.random() < 0.8 else OTHERS)
    fields = {"a": a, "b": b, "c": c, "role": draw.choice(ROLES), "thing": draw.choice(THINGS), "place": draw.choice(PLACES), "topic": draw.choice(TOPICS)}
    print(json.dumps({"prompt": form.format(**fields)}))
