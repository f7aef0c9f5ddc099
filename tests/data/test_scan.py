"""The grammar gives the published commands, actions and sizes of splits."""

import pytest

from llmjax.data import scan

# From the paper's figures, and from its text.
EXAMPLES = {
    "jump": "JUMP",
    "jump left": "LTURN JUMP",
    "jump around right": "RTURN JUMP RTURN JUMP RTURN JUMP RTURN JUMP",
    "turn left twice": "LTURN LTURN",
    "jump thrice": "JUMP JUMP JUMP",
    "jump opposite left and walk thrice": "LTURN LTURN JUMP WALK WALK WALK",
    "jump opposite left after walk around left": (
        "LTURN WALK LTURN WALK LTURN WALK LTURN WALK LTURN LTURN JUMP"
    ),
    "jump twice": "JUMP JUMP",
    "turn left twice and jump": "LTURN LTURN JUMP",
    "turn around right": "RTURN RTURN RTURN RTURN",
    "turn opposite right twice": "RTURN RTURN RTURN RTURN",
    "run twice after look opposite right": "RTURN RTURN LOOK RUN RUN",
}


@pytest.fixture(scope="module")
def commands():
    return dict(scan.commands())


def test_examples(commands):
    for command, actions in EXAMPLES.items():
        actions = actions.replace("LTURN", "TURN_LEFT").replace("RTURN", "TURN_RIGHT")
        wanted = " ".join(f"I_{action}" for action in actions.split())
        assert commands[command] == wanted, command


def interpret(words):
    """The actions of a command, read from its words: the paper's double brackets."""
    for word, order in (("and", 1), ("after", -1)):
        if word in words:
            place = words.index(word)
            parts = [interpret(words[:place]), interpret(words[place + 1 :])][::order]
            return parts[0] + parts[1]
    *rest, last = words
    if last in ("twice", "thrice"):
        return interpret(rest) * {"twice": 2, "thrice": 3}[last]
    if last in ("left", "right"):
        turn = [f"I_TURN_{last.upper()}"]
        if rest[-1] == "opposite":
            return turn + interpret([rest[0], last])
        if rest[-1] == "around":
            return interpret([rest[0], last]) * 4
        return turn + ([] if rest == ["turn"] else interpret(rest))
    assert not rest
    return [f"I_{last.upper()}"]


def test_every_command_means_its_actions(commands):
    assert len(scan.commands()) == len(commands) == 20_910
    for command, actions in commands.items():
        assert interpret(command.split()) == actions.split(), command
    assert max(len(actions.split()) for actions in commands.values()) == 48


@pytest.mark.parametrize(
    ("name", "num_train", "num_test"),
    [("simple", 16_728, 4_182), ("length", 16_990, 3_920), ("jump", 14_670, 7_706)],
)
def test_splits_are_as_large_as_published(commands, name, num_train, num_test):
    train, test = scan.split(name)
    assert (len(train), len(test)) == (num_train, num_test)
    assert len(set(test)) == num_test and not set(train) & set(test)
    assert {**dict(train), **dict(test)} == commands
    assert scan.split(name) == (train, test)


def test_what_the_splits_hold_out():
    train, test = scan.split("length")
    assert max(len(pair.target.split()) for pair in train) == 22
    assert min(len(pair.target.split()) for pair in test) == 24
    train, test = scan.split("jump")
    jumps = [pair for pair in train if "I_JUMP" in pair.target]
    assert set(jumps) == {("jump", "I_JUMP")} and len(jumps) == 1467
    assert all("jump" in pair.source.split() for pair in test)
    _, test = scan.split("simple")
    share = sum(" after " in pair.source for pair in test) / len(test)
    assert abs(share - 10_404 / 20_910) < 0.03  # four standard deviations


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split 'turn'.*: simple, length, jump"):
        scan.split("turn")


def test_the_tokenizer_has_an_id_for_each_word(commands):
    tokenizer = scan.make_tokenizer()
    assert tokenizer.vocab_size == 20 and tokenizer.eos_id == 0
    for text in [*EXAMPLES, *commands.values()][:500]:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text.split()) and min(ids) > 0
        assert tokenizer.decode(ids) == text
