"""SCAN: commands such as "jump around left twice" and the actions they stand for.

All 20,910 commands of the grammar, and three of the splits, of Lake and Baroni,
Generalization without Systematicity (2018).
"""

from typing import Literal

import tokenizers
from tokenizers import models, pre_tokenizers

from llmjax.data.held_out import rank
from llmjax.data.pairs import Pair
from llmjax.data.tokenizer import END, Tokenizer

SPLITS = ("simple", "length", "jump")

NUM_TEST_SIMPLE = 4182  # a fifth
MAX_TRAIN_ACTIONS = 22  # of the length split; the longest command has 48
NUM_BARE_JUMPS = 1467  # a tenth of the training pairs of the jump split

ACTIONS = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
TURNS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}


def commands() -> list[Pair]:
    """Every command with its actions, each once, in the order of the grammar."""
    parts = [*_repeated(_phrases())]
    pairs = [*parts]
    for first, first_actions in parts:
        for second, second_actions in parts:
            both = f"{first_actions} {second_actions}"
            pairs.append(Pair(f"{first} and {second}", both))
            pairs.append(Pair(f"{second} after {first}", both))
    return pairs


def _phrases() -> list[Pair]:
    """V of the grammar: one verb, with a direction or without."""
    phrases = [Pair(verb, action) for verb, action in ACTIONS.items()]
    for direction, turn in TURNS.items():
        # To turn is to act on nothing but the direction.
        for verb, action in (*ACTIONS.items(), ("turn", "")):
            once = f"{turn} {action}".strip()
            opposite, around = f"{turn} {once}", " ".join([once] * 4)
            phrases.append(Pair(f"{verb} {direction}", once))
            phrases.append(Pair(f"{verb} opposite {direction}", opposite))
            phrases.append(Pair(f"{verb} around {direction}", around))
    return phrases


def _repeated(phrases: list[Pair]) -> list[Pair]:
    """S of the grammar: each phrase once, twice and three times."""
    pairs = []
    for phrase, actions in phrases:
        pairs.append(Pair(phrase, actions))
        pairs.append(Pair(f"{phrase} twice", " ".join([actions] * 2)))
        pairs.append(Pair(f"{phrase} thrice", " ".join([actions] * 3)))
    return pairs


def split(name: Literal["simple", "length", "jump"]) -> tuple[list[Pair], list[Pair]]:
    """(train, test) of one of the published splits.

    * simple: a random fifth is tested; here the fifth of the smallest hashes, as the
      published one was drawn by chance.
    * length: trained on up to 22 actions, tested on more.
    * jump: of the commands that jump, only the bare "jump" is trained on, and so often
      that it makes a tenth of the training pairs; all others are tested.
    """
    pairs = commands()
    if name == "simple":
        order = sorted(pairs, key=lambda pair: rank(pair.source))
        return order[NUM_TEST_SIMPLE:], order[:NUM_TEST_SIMPLE]
    if name == "length":
        return _divide(pairs, lambda pair: _num_actions(pair) <= MAX_TRAIN_ACTIONS)
    if name == "jump":
        train, test = _divide(pairs, lambda pair: "jump" not in pair.source.split())
        bare = Pair("jump", ACTIONS["jump"])
        test.remove(bare)
        return train + [bare] * NUM_BARE_JUMPS, test
    raise ValueError(f"no split {name!r} of SCAN; there are: {', '.join(SPLITS)}")


def _num_actions(pair: Pair) -> int:
    return len(pair.target.split())


def _divide(pairs: list[Pair], is_train) -> tuple[list[Pair], list[Pair]]:
    train = [pair for pair in pairs if is_train(pair)]
    return train, [pair for pair in pairs if not is_train(pair)]


def make_tokenizer() -> Tokenizer:
    """One id to a word, of commands and of actions, and one to the end."""
    words = {word for pair in commands() for text in pair for word in text.split()}
    vocab = {word: index for index, word in enumerate([END, *sorted(words)])}
    core = tokenizers.Tokenizer(models.WordLevel(vocab))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([END])
    return Tokenizer(core, eos=END)
