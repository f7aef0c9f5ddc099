"""Over HTTP, "model" names an adapter or the base, and each is listed."""

from llmjax import lora, lora_rows
from llmjax.data.tokenizer import byte_tokenizer
from llmjax.generate.engine import Engine
from llmjax.generate.text import generate
from llmjax.lora import LoraConfig
from llmjax.serve import app
from llmjax.serve.writer import Writer
from tests.serve import tiny
from tests.serve.stub import CLIENT, post, serving
from tests.test_lora import trained

KIND = LoraConfig(rank=2, alpha=8.0)


def test_the_model_of_a_request_is_an_adapter_or_the_base():
    model, base = tiny.model()
    adapters = trained(KIND, base)
    kept = [(KIND, adapters), (LoraConfig(rank=2, alpha=-8.0), adapters)]
    engine = Engine(
        model, lora_rows.keep(base, kept), vocab_size=257, num_tokens=64, num_slots=3
    )
    tokenizer = byte_tokenizer()
    served = app.Served("base", Writer(engine, tokenizer, None), None, ("one", "two"))
    params = {"base": base} | {
        name: lora.merge(base, own, cfg)
        for name, (cfg, own) in zip(served.adapters, kept, strict=True)
    }
    texts = {}
    with serving(app.make(served)) as url:
        for name in served.names:
            body = {"prompt": "ab", "max_tokens": 12, "temperature": 0, "model": name}
            status, answer = post(url, "/v1/completions", body)
            assert status == 200 and answer["model"] == name
            texts[name] = answer["choices"][0]["text"]
            [ids] = generate(
                model, params[name], [tokenizer.encode("ab")], max_new_tokens=12,
                context=64, stop_ids=[tokenizer.eos_id],
            )  # fmt: skip
            assert texts[name] == tokenizer.decode(ids)
        status, answer = post(
            url, "/v1/completions", {"prompt": "ab", "model": "three"}
        )
        assert status == 404 and "'base', 'one', 'two'" in answer["error"]["message"]
        listed = CLIENT.get(url + "/v1/models").json()["data"]
        assert [(one["id"], one["parent"]) for one in listed] == [
            ("base", None), ("one", "base"), ("two", "base"),
        ]  # fmt: skip
        assert CLIENT.get(url + "/v1/models/two").json()["id"] == "two"
    assert len(set(texts.values())) == 3


def test_without_adapters_nothing_else_is_served():
    assert app.Served("base").names == ("base",)
