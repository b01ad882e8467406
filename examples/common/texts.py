"""Text for models: byte pairs, rows of one text, aligned lines of two languages; and text from models."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from common import files
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Generator, Tensor, nn

PAD, BEGIN, END = range(3)
SPECIAL = ("<pad>", "<begin>", "<end>")

Lines = list[tuple[str, str]]  # sentences and their translations
Pair = tuple[list[int], list[int]]  # one of them as tokens: the sentence and END; BEGIN, its translation and END


def byte_pairs(texts: Iterable[str], size: int, special: Sequence[str] = ()) -> Tokenizer:
    """A vocabulary of so many tokens or fewer, learned from texts: first the special ones, then every byte, so that it
    can write any text, then byte pairs (Sennrich et al. 2016, arXiv:1508.07909)."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": list(special), "initial_alphabet": bytes_, "show_progress": False}
    found.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, **options))
    return found


def whole_words(texts: Iterable[str], size: int, special: Sequence[str]) -> Tokenizer:
    """A vocabulary of words in small letters, numbered from the commonest on after the special ones, of which the last
    stands for words that are too rare to be in it."""
    found = Tokenizer(models.WordLevel(unk_token=special[-1]))
    found.normalizer, found.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    options = {"special_tokens": list(special), "show_progress": False}
    found.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=size, **options))
    return found


# --- one text --------------------------------------------------------------------------------------------------


def rows(tokens: Tensor, length: int, random: Generator | None = None) -> Tensor:
    """A text in rows, int[rows, length + 1]: each begins with the token that ends the one before, what is too short for
    a row is left out. With random numbers the first begins anywhere, and rows are shuffled."""
    start = 0 if random is None else int(torch.randint(length, (), generator=random))
    found = tokens[start:].unfold(0, length + 1, length)
    return found if random is None else found[torch.randperm(len(found), generator=random)]


@torch.inference_mode()
def continued(model: nn.Module, ids: list[int], count: int, context: int, seed: int) -> list[int]:
    """So many more tokens, each drawn at a temperature of 0.8 from what the model says after those before it."""
    random = Generator().manual_seed(seed)
    for _ in range(count):
        logits = model(torch.tensor([ids[-context:]]))[0, -1]
        ids = [*ids, int(torch.multinomial((logits / 0.8).softmax(0), 1, generator=random))]
    return ids


# --- sentences -------------------------------------------------------------------------------------------------


def pieces(vocabulary: Tokenizer, lines: list[str], length: int) -> list[list[int]]:
    """Lines as tokens, those with more than so many in pieces."""
    whole = [encoded.ids for encoded in vocabulary.encode_batch(lines)]
    return [ids[at : at + length] for ids in whole for at in range(0, len(ids), length)]


def batches(sentences: Sequence[list[int]], size: int, random: Generator) -> Iterator[Tensor]:
    """Tokens of so many sentences, int[size, n], in random order; of each 50 batches those of like length together."""
    for many in torch.randperm(len(sentences), generator=random).split(50 * size):
        ordered = sorted((sentences[k] for k in many.tolist()), key=len)
        yield from (padded(ordered[at : at + size]) for at in range(0, len(ordered), size))


# --- two languages ---------------------------------------------------------------------------------------------


def aligned(source: Path, target: Path, longest: int, advice: str) -> Lines:
    """The lines of two files side by side, where both have a word, and no more words than the longest; of lines with
    one source, one. The program ends where a file cannot be used, or has not as many lines as the other."""
    first = files.read(source, files.lines, advice)

    def beside(path: Path) -> list[str]:
        second = files.lines(path)
        if len(second) != len(first):
            raise ValueError(f"it has {len(second):,} lines, and {source} has {len(first):,}")
        return second

    both = zip(first, files.read(target, beside, advice), strict=True)
    return list(dict(pair for pair in both if all(0 < len(line.split()) <= longest for line in pair)).items())


def numbered(vocabulary: Tokenizer, lines: Lines) -> list[Pair]:
    """Lines as tokens of a vocabulary that begins with SPECIAL."""
    return [([*vocabulary.encode(a).ids, END], [BEGIN, *vocabulary.encode(b).ids, END]) for a, b in lines]


def alike(pairs: Sequence[Pair], size: int, seed: int) -> list[list[Pair]]:
    """Batches of like length, so that little is padding, in random order."""
    order = random.Random(seed)
    ordered = sorted(pairs, key=lambda pair: (len(pair[1]), len(pair[0]), order.random()))
    batches = [ordered[k : k + size] for k in range(0, len(ordered), size)]
    order.shuffle(batches)
    return batches


def padded(found: Iterable[list[int]]) -> Tensor:
    """Tokens of several sentences, int[b, n]: PAD behind the shorter ones."""
    return nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in found], batch_first=True, padding_value=PAD)


@torch.inference_mode()
def translated(model: nn.Module, sources: Sequence[list[int]], size: int = 100) -> list[list[int]]:
    """What a transformer writes for each: from BEGIN on always the likeliest token, until END."""
    if len(sources) > size:
        return [ids for k in range(0, len(sources), size) for ids in translated(model, sources[k : k + size])]
    source = padded(sources)
    keep, written = source != PAD, torch.full((len(source), 1), BEGIN)
    memory = model.encoder(model.placed(model.words(source)), keep)  # read once; else as the spec's flow
    while not (over := (written == END).any(1)).all() and written.shape[1] < 2 * source.shape[1] + 10:
        x = model.decoder(model.placed_2(model.words(written)), memory, None, keep)
        best = (x[:, -1] @ model.words.weight.T).argmax(-1)
        written = torch.cat([written, best.where(~over, PAD)[:, None]], 1)
    return [[token for token in ids if token != PAD] for ids in written.tolist()]


def copied(learned: Lines, asked: Lines) -> list[str]:
    """A translation without a model: that of the sentence which is most alike, by the words that both have, rare ones
    counting more (cosine of TF-IDF)."""
    words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")
    known = words.fit_transform([source for source, _ in learned])
    alike = words.transform([source for source, _ in asked]) @ known.T
    return [learned[k][1] for k in alike.toarray().argmax(1)]
