"""Conversations of every layout, and what is said of those that make no sense."""

import gzip
import json

import pytest

from llmjax.data.conversations import Conversation, Tally, read

TALK = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]
SYSTEM = {"role": "system", "content": "s"}


def write(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def turns(*roles):
    return {"messages": [{"role": role, "content": "text"} for role in roles]}


def test_every_layout(tmp_path):
    file = write(
        tmp_path / "a.jsonl",
        {"messages": [SYSTEM, *TALK], "source": "elsewhere"},
        "",
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "input": "x", "output": "a"},
        {"prompt": "q", "completion": "a"},
        {"messages": [{**TALK[0], "name": None}, TALK[1]]},
    )
    tally = Tally()
    found = list(read(str(file), tally))
    with_input = [{"role": "user", "content": "q\n\nx"}, TALK[1]]
    expected = [[SYSTEM, *TALK], TALK, TALK, with_input, TALK, TALK]
    lines = [1, 3, 4, 5, 6, 7]
    assert found == [
        Conversation(f"{file}:{line}", messages)
        for line, messages in zip(lines, expected, strict=True)
    ]
    assert tally.rows() == [
        {"conversations": "learned", "number": 0, "first": ""},
        {"conversations": "held out", "number": 0, "first": ""},
    ]


def test_files_folders_and_patterns(tmp_path):
    record = json.dumps({"prompt": "q", "completion": "a"}).encode() + b"\n"
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(record * 2))
    (tmp_path / "a.jsonl").write_bytes(record)
    (tmp_path / "README.md").write_text("not a conversation")

    def places(spec):
        return [one.where.removeprefix(f"{tmp_path}/") for one in read(spec, Tally())]

    assert places(str(tmp_path)) == ["a.jsonl:1", "b.jsonl.gz:1", "b.jsonl.gz:2"]
    assert places(f"{tmp_path}/*.gz, {tmp_path}/a.jsonl") == [
        "b.jsonl.gz:1", "b.jsonl.gz:2", "a.jsonl:1"
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        places("/nowhere")


BAD = {
    "bad line": (b"{", "bad line: not JSON (Expecting"),
    "not an object": (b"[1]", "bad line: not a JSON object"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not UTF-8: byte 12 of the line"),
    "surrogate": ({"prompt": "\ud800", "completion": "a"}, "not UTF-8: message 1"),
    "fields": ({"text": "a", "id": 1}, "unknown fields: text, id; known are messages"),
    "no field": ({}, "unknown fields: none"),
    "no list": ({"messages": "q"}, "not a list of messages"),
    "no message": ({"messages": ["q"]}, "not a list of messages"),
    "nothing": ({"messages": []}, "no assistant turn"),
    "no answer": (turns("system", "user"), "no assistant turn"),
    "empty": ({"prompt": "q", "completion": " \n"}, "empty answer: message 2"),
    "no question": ({"prompt": "", "completion": "a"}, "empty message: message 1"),
    "not text": ({"prompt": ["q"], "completion": "a"}, "content is not text"),
    "missing": ({"messages": [{"role": "user"}]}, "content is not text: of message 1"),
    "assistant first": (turns("assistant"), "roles out of order: 'assistant' at first"),
    "twice": (turns("user", "user"), "order: 'user' after user, message 2"),
    "system later": (turns("user", "assistant", "system"), "order: 'system' after"),
    "no such role": (turns("human", "gpt"), "roles out of order: 'human' at first"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_named_by_its_place(name, tmp_path):
    line, message = BAD[name]
    line = line if isinstance(line, bytes) else json.dumps(line).encode()
    good = json.dumps({"prompt": "q", "completion": "a"}).encode()
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join([good, line, good]))
    with pytest.raises(ValueError) as caught:
        list(read(str(file), Tally()))
    assert str(caught.value).startswith(f"{file}:2: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "--data.on_bad=skip" in str(caught.value)
    # Skipped, it is counted, and the others are read.
    tally = Tally("skip")
    assert len(list(read(str(file), tally))) == 2
    kind = message.partition(":")[0]
    [row] = tally.rows()[2:]
    assert row["conversations"].startswith("refused: ")
    assert kind in row["conversations"] or kind.startswith("order")
    assert (row["number"], row["first"]) == (1, f"{file}:2")
    assert tally.count("refused") == 1 and tally.count("learned") == 0


def test_which_turns_must_be_there(tmp_path):
    file = write(tmp_path / "a.jsonl", turns("user", "assistant", "user"))
    assert len(list(read(str(file), Tally(), roles=["user"]))) == 1
    with pytest.raises(ValueError, match="no system or tool turn"):
        list(read(str(file), Tally(), roles=["system", "tool"]))
    tools = turns("user", "assistant", "tool", "tool", "assistant")
    assert len(list(read(str(write(file, tools)), Tally(), roles=["tool"]))) == 1


def test_the_table_names_the_first_places():
    tally = Tally("skip")
    for line in range(1, 6):
        tally.refuse(f"a.jsonl:{line}", ValueError(f"empty answer: message {line}"))
    tally.add("learned", "a.jsonl:6")
    assert tally.rows() == [
        {"conversations": "learned", "number": 1, "first": ""},
        {"conversations": "held out", "number": 0, "first": ""},
        {
            "conversations": "refused: empty answer",
            "number": 5,
            "first": "a.jsonl:1, a.jsonl:2, a.jsonl:3",
        },
    ]


def test_saved_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"messages": [SYSTEM, *TALK]}, {"messages": TALK}]
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=saved, test=saved).save_to_disk(str(tmp_path / "parts"))
    datasets.DatasetDict(test=saved).save_to_disk(str(tmp_path / "no_train"))
    for name in ("one", "parts"):
        found = list(read(str(tmp_path / name), Tally()))
        assert [one.messages for one in found] == [[SYSTEM, *TALK], TALK]
        assert [one.where for one in found] == [
            f"{tmp_path / name}:0", f"{tmp_path / name}:1"
        ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no split train; .* \['test'\]"):
        list(read(str(tmp_path / "no_train"), Tally()))
