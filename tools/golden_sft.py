"""Writes tests/golden/sft: a model, conversations, what TRL's trainer makes of them.

    pip install trl
    python tools/golden_sft.py

masks.json: the tokens of conversations and which are an assistant's, by transformers,
for the templates of llmjax. losses.json: those of `trl.SFTTrainer` over some steps of
two batches each, where the number of trained tokens differs much.
"""

import json
import pathlib
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "sft"
TEMPLATES = ("chatml", "llama3", "gemma", "plain")
END = "<|endoftext|>"
CONTROL = [
    END, "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip
LEARNING_RATE, NUM_STEPS, ACCUMULATE, BATCH_SIZE = 0.5, 3, 2, 2


def talk(*texts: str, system: str = "") -> list[dict[str, str]]:
    """A conversation of questions and answers in turn."""
    first = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return first + [
        {"role": roles[number % 2], "content": text}
        for number, text in enumerate(texts)
    ]


CONVERSATIONS = [
    talk("What is one and one?", "Two."),
    talk("Hi", "Hello, you.", "Say it in French", "Bonjour ! Ça va ? 🙂"),
    talk("Name three fruits.", "- apple\n- pear\n- fig\n", system="Make lists."),
    talk("Why?", "Because."),
    talk("  Indented\n\n", "  as is the answer, with a tab\t", "{{ x }}", "<b>&</b>"),
    talk("Tell me a story, a long one.", "Once upon a time there was a fox. " * 4),
    talk("1 + 2 = ?", "3", "3 + 4 = ?", "7", "7 + 8 = ?", "15", system="Only digits."),
    talk("Bye", "Bye"),
]


def make_tokenizer():
    """Byte-level BPE with a few merges, and the control tokens of all templates."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=CONTROL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = [turn["content"] for talked in CONVERSATIONS for turn in talked]
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|begin_of_text|>", eos_token=END,
        pad_token=END,
    )  # fmt: skip


def make_masks(tokenizer) -> list[dict]:
    """What transformers says is an assistant's."""
    found = []
    for name in TEMPLATES:
        path = ROOT / "llmjax" / "data" / f"{name}.jinja"
        for messages in CONVERSATIONS:
            told = tokenizer.apply_chat_template(
                messages, chat_template=path.read_text(), return_dict=True,
                return_assistant_tokens_mask=True,
            )  # fmt: skip
            ids, mask = told["input_ids"], told["assistant_masks"]
            found.append(
                {"template": name, "messages": messages, "ids": ids, "mask": mask}
            )
    return found


def make_losses(tokenizer, template: str) -> dict:
    """The losses of TRL's trainer, and what it read: ids and labels by step."""
    import datasets
    import torch
    import transformers
    import trl

    class Trainer(trl.SFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            found = super().compute_loss(model, inputs, *args, **kwargs)
            loss = found[0] if isinstance(found, tuple) else found
            ids, labels = (inputs[name].tolist() for name in ("input_ids", "labels"))
            read.append({"ids": ids, "labels": labels, "loss": loss.item()})
            return found

    tokenizer.chat_template = template
    transformers.set_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        max_position_embeddings=256, initializer_range=0.3, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(GOLDEN)
    read = []
    with tempfile.TemporaryDirectory() as folder:
        args = trl.SFTConfig(
            output_dir=folder, max_steps=NUM_STEPS, learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0,
            per_device_train_batch_size=BATCH_SIZE, warmup_steps=0, logging_steps=1,
            gradient_accumulation_steps=ACCUMULATE, gradient_checkpointing=False,
            bf16=False, use_cpu=True, report_to="none", save_strategy="no",
            assistant_only_loss=True, max_length=256, seed=0,
        )  # fmt: skip
        trainer = Trainer(
            model, args, processing_class=tokenizer,
            train_dataset=datasets.Dataset.from_list(
                [{"messages": messages} for messages in CONVERSATIONS]
            ),
        )  # fmt: skip
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    steps = [read[at : at + ACCUMULATE] for at in range(0, len(read), ACCUMULATE)]
    versions = {one.__name__: one.__version__ for one in (trl, transformers, torch)}
    return {
        "versions": versions, "learning_rate": LEARNING_RATE, "losses": losses,
        "steps": steps,
    }  # fmt: skip


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    tokenizer = make_tokenizer()
    chatml = (ROOT / "llmjax" / "data" / "chatml.jinja").read_text()
    found = {"masks": make_masks(tokenizer), "losses": make_losses(tokenizer, chatml)}
    for name, value in found.items():
        text = json.dumps(value, ensure_ascii=False) + "\n"
        (GOLDEN / f"{name}.json").write_text(text, encoding="utf-8")
    tokenizer.save_pretrained(GOLDEN)


if __name__ == "__main__":
    main()
