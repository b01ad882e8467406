"""Stories with questions, in the format of bAbI's tasks (Weston et al. 2015, arXiv:1502.05698): a reader and a writer.

    1 Mary moved to the bathroom.
    2 John went to the hallway.
    3 Where is Mary?    bathroom    1

After tabs stand the answer and the numbers of the facts that it follows from; with number 1 another story begins.
The reader takes the public files too. The writer simulates people who walk, take, drop and give things. Its words are
those of bAbI, and of Sam in the example of Sukhbaatar et al. 2015; its stories are shorter than bAbI's.
"""

import random
import re
from pathlib import Path
from typing import NamedTuple

import torch
from common import files
from torch import Tensor

from towerdsl.files import write as write_file

NAMES = {1: "single-supporting-fact", 2: "two-supporting-facts", 3: "three-supporting-facts"}
NAMES |= {5: "three-arg-relations", 6: "yes-no-questions", 15: "basic-deduction"}
LINE = re.compile(r"(\d{1,6}) (?:([^\t]{1,400})\. ?|([^\t]{1,400})\? ?\t(\S{1,100}) ?\t(\d[\d ]{0,400}))")
PEOPLE = ("Mary", "John", "Daniel", "Sandra", "Sam")
THINGS = ("apple", "football", "milk")
ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
GO = ("moved to", "went to", "went back to", "journeyed to", "travelled to", "walks into")
GET = ("got", "took", "grabbed", "picked up", "picks up")
DROP = ("dropped", "left", "discarded", "put down", "drops")
GIVE = ("gave", "passed", "handed")
ANIMALS = {"mouse": "mice", "wolf": "wolves", "cat": "cats", "sheep": "sheep"}


class Question(NamedTuple):
    facts: list[list[str]]  # the words of what was told before, the newest sentence first
    words: list[str]
    answer: str


def read(path: Path) -> list[Question]:
    """The questions of a file, in its order. ValueError, with the line, where it is not as it should be."""
    questions, facts, last, asked = [], {}, 0, True
    for at, line in enumerate(files.text(path).splitlines(), 1):
        found = LINE.fullmatch(line)
        if not found or int(found[1]) not in (1, last + 1):
            raise ValueError(f"line {at} is no sentence with the next number, nor a question with tabs and an answer")
        last, fact, question, answer, support = int(found[1]), *found.groups()[1:]
        if last == 1:
            facts = {}
        if fact:
            facts[last] = words(fact)
        elif not {int(number) for number in support.split()} <= set(facts):
            raise ValueError(f"line {at} has an answer from facts that were not told")
        else:
            questions.append(Question([*facts.values()][::-1], words(question), answer.lower()))
        asked = not fact
    if not asked:
        raise ValueError(f"it breaks off in line {at}, before the story's last question")
    return questions


def words(sentence: str) -> list[str]:
    return re.findall(r"[\w'-]+", sentence.lower())


def numbers(questions: list[Question]) -> dict[str, int]:
    """All words, numbered from 1 on in the order of the alphabet."""
    return {word: n for n, word in enumerate(sorted({w for q in questions for s in _sentences(q) for w in s}), 1)}


def _sentences(question: Question) -> list[list[str]]:
    return [*question.facts, question.words, [question.answer]]


def tensors(questions: list[Question], number: dict[str, int], memory: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stories int[b, n, w], of each the newest sentences, at most `memory`; questions int[b, w]; answers int[b].

    0 stands where there is no word, and for one without a number.
    """
    memory = min(memory, max(len(q.facts) for q in questions))
    width = max(len(words) for q in questions for words in _sentences(q))

    def row(words: list[str]) -> list[int]:
        return [number.get(word, 0) for word in words] + [0] * (width - len(words))

    stories = [[row(fact) for fact in q.facts[:memory]] + [row([])] * (memory - len(q.facts)) for q in questions]
    asked, answers = [row(q.words) for q in questions], [number.get(q.answer, 0) for q in questions]
    return torch.tensor(stories), torch.tensor(asked), torch.tensor(answers)


def write(path: Path, task: int, questions: int, seed: str) -> None:
    """A file of so many questions, or up to four more: whole stories are told."""
    draw, lines, asked = random.Random(f"{task} {seed}"), [], 0
    while asked < questions:
        story = deduction(draw) if task == 15 else World(task, draw).story()
        lines += story
        asked += sum("\t" in line for line in story)
    write_file(path, "".join(f"{line}\n" for line in lines))


def deduction(draw: random.Random) -> list[str]:
    """Task 15: what animals of a kind are afraid of, and who is one."""
    names, fears = draw.sample(("Gertrude", "Winona", "Jessica", "Emily"), 4), {}
    for kind in ANIMALS:
        fears[kind] = draw.choice([other for other in ANIMALS if other != kind])
    kinds = {name: draw.choice([*ANIMALS]) for name in names}
    told = [(f"{ANIMALS[a].capitalize()} are afraid of {ANIMALS[b]}.", a) for a, b in fears.items()]
    told += [(f"{name} is a {kind}.", name) for name, kind in kinds.items()]
    draw.shuffle(told)
    place = {about: number for number, (_, about) in enumerate(told, 1)}
    asked = [f"What is {n.lower()} afraid of?\t{fears[k]}\t{place[n]} {place[k]}" for n, k in kinds.items()]
    return [f"{number} {line}" for number, line in enumerate([sentence for sentence, _ in told] + asked, 1)]


class World:
    """Four people, three things and six rooms.

    People begin in a room that is not told: `at` has of each the room, and the line that said so. Of each thing `rooms`
    has where it was, `holder` who has it, `found` the facts that say where it is, `moved` where it was before.
    """

    def __init__(self, task: int, draw: random.Random):
        self.task, self.draw, self.lines, self.gifts = task, draw, [], []
        people = ["Mary", "Fred", "Jeff", "Bill"] if task == 5 else draw.sample(PEOPLE, 4)
        self.places = draw.sample(ROOMS, 2) if task == 5 else ROOMS  # who gives has to be where the other one is
        self.at = dict.fromkeys(people, ("", 0))
        self.rooms = {thing: [] for thing in THINGS}
        self.holder, self.touched, self.found, self.moved = {}, {}, {}, {}

    def story(self) -> list[str]:
        for _ in range(5):
            question = None
            while not question:
                for _ in range(2 if self.task == 1 else 3):
                    self.act()
                question = self.ask()
            self.tell(question)
        return self.lines

    def tell(self, line: str) -> int:
        self.lines.append(f"{len(self.lines) + 1} {line}")
        return len(self.lines)

    def act(self) -> None:
        draw, person = self.draw, self.draw.choice([*self.at])
        room, came = self.at[person]
        near = [other for other, (place, _) in self.at.items() if other != person and place == room]
        held = [thing for thing in THINGS if self.holder.get(thing) == person]
        free = [thing for thing in THINGS if not self.holder.get(thing) and self.rooms[thing][-1:] in ([], [room])]
        thing = draw.choice(held or free or [""])
        if self.task == 5 and held and near and draw.random() < 0.6:
            self.holder[thing] = draw.choice(near)
            line = self.tell(f"{person} {draw.choice(GIVE)} the {thing} to {self.holder[thing]}.")
            self.gifts.append((person, thing, self.holder[thing], line))
        elif self.task > 1 and thing and (room or self.task == 5) and draw.random() < 0.4:
            verb = draw.choice(DROP if held else GET)
            a = "an" if verb == "picks up" and thing == "apple" else "the"
            line = self.tell(f"{person} {verb} {a} {thing}{draw.choice([' there', ''])}.")
            self.holder[thing] = None if held else person
            self.touched[thing], self.found[thing] = line, f"{line} {came}"
            self.rooms[thing] = self.rooms[thing] or [room]
        else:
            room = draw.choice([other for other in self.places if other != room])
            line = self.tell(f"{person} {draw.choice(GO)} the {room}.")
            self.at[person] = room, line
            for thing in held:
                self.rooms[thing].append(room)
                self.found[thing] = f"{self.touched.get(thing)} {line}"
                self.moved[thing] = f"{self.found[thing]} {came}"

    def ask(self) -> str | None:
        """A question on what was told, with its answer and the facts that say so; None if there is none yet."""
        if self.task == 5:
            return self.ask_of_gifts()
        things = [thing for thing, rooms in self.rooms.items() if len(rooms) >= self.task - 1]
        people = [person for person, (room, _) in self.at.items() if room]
        asked = people if self.task in (1, 6) else things
        if not asked:
            return None
        one = self.draw.choice(asked)
        if self.task == 2:
            return f"Where is the {one}? \t{self.rooms[one][-1]}\t{self.found[one]}"
        if self.task == 3:
            before, room = self.rooms[one][-2:]
            return f"Where was the {one} before the {room}? \t{before}\t{self.moved[one]}"
        room, line = self.at[one]
        if self.task == 1:
            return f"Where is {one}? \t{room}\t{line}"
        other = self.draw.choice([room, self.draw.choice([place for place in ROOMS if place != room])])
        return f"Is {one} in the {other}? \t{'yes' if other == room else 'no'}\t{line}"

    def ask_of_gifts(self) -> str | None:
        if not self.gifts:
            return None
        giver, thing, receiver, _ = self.draw.choice(self.gifts)
        question, answer, given = self.draw.choice(
            [
                (f"Who gave the {thing}?", 0, {1: thing}),
                (f"Who received the {thing}?", 2, {1: thing}),
                (f"Who gave the {thing} to {receiver}?", 0, {1: thing, 2: receiver}),
                (f"Who did {giver} give the {thing} to?", 2, {0: giver, 1: thing}),
                (f"What did {giver} give to {receiver}?", 1, {0: giver, 2: receiver}),
            ]
        )
        last = [gift for gift in self.gifts if all(gift[at] == word for at, word in given.items())][-1]
        return f"{question} \t{last[answer]}\t{last[-1]}"
