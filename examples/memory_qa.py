"""Questions on stories, answered by memory networks: what one look at the sentences finds, and what takes several.

    python examples/memory_qa.py                                    # stories made up in the words of bAbI
    python examples/memory_qa.py --data tasks_1-20_v1-2/en --questions 1000 --epochs 100        # bAbI itself

The model is the library's memn2n, trained as in the paper (Sukhbaatar et al. 2015, arXiv:1503.08895, section 4.2): at
first without the softmax ("linear start"), with a tenth of the memories empty at random, gradients no longer than 40;
here by Adam. What counts are wrong answers to 1,000 other questions. hops.png: the network for task 2, most hops.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from common import files, stories
from common.training import Run, number, parse, parser, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor

import towerdsl
from towerdsl.maps import pictures

# Table 1, errors in %: 1 hop and 2 hops PE LS joint, 3 hops PE LS RN joint, of 1,000 questions for each of 20 tasks.
PUBLISHED = {1: (0.8, 0.0, 0.0), 2: (62.0, 15.6, 11.4), 3: (76.9, 31.6, 21.9)}
PUBLISHED |= {5: (11.0, 13.4, 14.4), 6: (7.2, 2.3, 2.8), 15: (46.4, 0.5, 0.0)}
CAPTION = "questions: to learn from / for the test; paper: all of bAbI at once, 1,000 of each task"
MEMORY, BATCH = 50, 32  # the newest sentences of a story; questions
ADVICE = "--data takes a folder with bAbI's files, tasks_1-20_v1-2/en; without it stories are made up."
SAM = "Sam walks into the kitchen. Sam picks up an apple. Sam walks into the bedroom. Sam drops the apple."
MARY = "Mary went to the kitchen. Mary got the apple. Mary went to the bedroom. Mary left the apple."  # for bAbI


def main() -> None:
    options = parser(__doc__, epochs=12)
    options.add_argument("--tasks", type=int, nargs="+", choices=range(1, 21), default=[1, 2, 3], metavar="N")
    options.add_argument("--hops", type=number(1, 20), nargs="+", default=[1, 3], metavar="N", help="(default: 1 3)")
    options.add_argument("--questions", type=positive, default=10_000, help="to learn from (default: 10,000)")
    options.add_argument("--data", type=Path, help="a folder of bAbI's files; otherwise stories are made up")
    options = parse(options)
    hops = sorted(set(options.hops))
    heads = [f"hops: {h}" for h in hops] + [f"paper: {h}" for h in hops if h <= 3]
    table = Table("task", "questions", *heads, title="Wrong answers in %", caption=CAPTION)
    data = {t: [load(options, t, "train", options.questions), load(options, t, "test", 1000)] for t in options.tasks}
    for task, questions in data.items():
        errors = [train(options, task, h, *questions, show=task == 2 and h == hops[-1]) for h in hops]
        errors += [PUBLISHED[task][h - 1] / 100 for h in hops if h <= 3 and task in PUBLISHED]
        count = " / ".join(f"{len(part):,}" for part in questions)
        table.add_row(f"{task} {stories.NAMES.get(task, '')}", count, *(f"{100 * error:.1f}" for error in errors))
    Console().print(table, *[f"picture: {options.folder / 'hops.png'}"] * (2 in options.tasks))


def load(options, task: int, part: str, many: int) -> list[stories.Question]:
    """The questions to learn from or to be tested on; where none are given, stories are made up and written first."""
    if options.data:
        path = next(options.data.glob(f"qa{task}_*_{part}.txt"), options.data / f"qa{task}_*_{part}.txt")
    elif task not in stories.NAMES:
        sys.exit(f"Stories are made up for the tasks {', '.join(map(str, stories.NAMES))}. {ADVICE}")
    else:
        path = options.folder / f"qa{task}_{stories.NAMES[task]}_{part}.txt"
        stories.write(path, task, many, seed=f"{options.seed} {part}")
    return files.read(path, stories.read, ADVICE)[:many]


def train(options, task: int, hops: int, questions, others, show: bool) -> float:
    """The error on the other questions, after training with the first; may show the hops in a picture."""
    number = stories.numbers(questions + others)
    story, question, answer = stories.tensors(questions, number, MEMORY)
    test = [x.split(200) for x in stories.tensors(others, number, MEMORY)]

    torch.manual_seed(options.seed)
    sizes = {"d": 40, "hops": hops, "vocab": len(number) + 1, "memory": MEMORY}
    model = towerdsl.compile("memn2n", **sizes)()
    begins = towerdsl.compile("memn2n", linear_start=True, **sizes)()
    begins.load_state_dict(model.state_dict(keep_vars=True), assign=True)  # both have the very same parameters
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / options.epochs)
    run = Run(f"task-{task}-hops-{hops}", options, model, optimizer, schedule, tasks=task, hops=hops)
    told = (story.amax(-1) > 0).sum(1)
    for epoch in run.epochs(steps=-(-len(story) // BATCH)):
        network = begins if epoch < options.epochs // 4 else model
        batches = (told + 4 * torch.rand(len(told))).argsort().split(BATCH)  # of stories about equally long
        for batch in run.track([batches[k] for k in torch.randperm(len(batches))]):
            logits = network(with_gaps(story[batch, : told[batch].max()]), question[batch])
            loss = F.cross_entropy(logits, answer[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 40)
            optimizer.step()
        schedule.step()
        with torch.inference_mode():
            wrong = torch.cat([model(s, q).argmax(-1) != a for s, q, a in zip(*test, strict=True)])
        run.record(loss=loss.item(), error=wrong.float().mean().item())
    if show:
        picture(model, number, options.folder / "hops.png")
    return run.history[-1]["error"]


def with_gaps(story: Tensor) -> Tensor:
    """The story, int[b, n, w], with a tenth of its sentences empty at random; what was told before them moves on."""
    story = F.pad(story, (0, 0, 0, story.shape[1] // 8 + 1))
    empty = torch.rand(story.shape[:2]) < 0.1
    place = ((~empty).cumsum(1) - 1).clamp(min=0)
    return story.take_along_dim(place[..., None], 1).masked_fill(empty[..., None], 0)


def picture(model, number: dict[str, int], path: Path) -> None:
    """What each hop looks at while the model answers the paper's example."""
    told, asked = (SAM if "sam" in number else MARY).rstrip(".").split(". ")[::-1], "Where is the apple?"
    example = stories.Question([stories.words(sentence) for sentence in told], stories.words(asked), "bedroom")
    story, question, _ = stories.tensors([example], number, memory=len(told))
    with torch.inference_mode(), towerdsl.probe(model, at="look*") as maps:
        answer = {n: word for word, n in number.items()}[model(story, question).argmax().item()]
    pictures.save(pictures.hops([*maps], told, question=asked, answer=answer), path)


if __name__ == "__main__":
    main()
