"""Several models in one server: a model's name chooses its text, its limits and its defaults."""

from pathlib import Path
from typing import Any

import pytest
from frontend_world import HELLO, ScriptedPort, application, byte_level, card, get, post, write_model

from jedlik.core import tokens
from jedlik.core.requests import Defaults
from jedlik.frontend.app import Application, ServedModel

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("other"), byte_level("gpt2", vocab=700), "{{ messages[0].content }}!")


def both(model_dir: Path, other_dir: Path) -> tuple[Application, ScriptedPort]:
    port = ScriptedPort([300, 2])
    port.card_list = (card(), card("w1", model="other", vocab=700, length=64), card("w2", model="nobody's"))
    other = ServedModel(directory=other_dir, defaults=Defaults(temperature=0.25))
    return application(model_dir, port, more_models={"other": other}), port


def test_a_models_name_chooses_template_tokenizer_limits_and_defaults(model_dir: Path, other_dir: Path) -> None:
    app, port = both(model_dir, other_dir)
    prompts = {}
    for name in ("tiny", "other"):
        reply = post(app, CHAT, {"model": name, "messages": HELLO})
        assert (reply.status, reply.json()["model"]) == (200, name)
        prompts[name] = list(port.requests.values())[-1]
    assert [prompts[name].model for name in prompts] == ["tiny", "other"]
    shown = post(app, "/detokenize", {"model": "other", "tokens": tokens.unpack(prompts["other"].prompt)})
    assert shown.json()["prompt"] == "Hi!"
    assert prompts["other"].sampling.temperature == 0.25 != prompts["tiny"].sampling.temperature
    assert prompts["other"].stopping.max_tokens < 64 < prompts["tiny"].stopping.max_tokens


def test_all_models_with_a_worker_and_a_text_are_listed(model_dir: Path, other_dir: Path) -> None:
    app, port = both(model_dir, other_dir)
    listed = get(app, "/v1/models").json()["data"]
    assert [(one["id"], one["max_model_len"]) for one in listed] == [("other", 64), ("tiny", 512)]
    port.card_list = port.card_list[1:]
    assert [one["id"] for one in get(app, "/v1/models").json()["data"]] == ["other"]
    assert post(app, CHAT, {"model": "nobody's", "messages": HELLO}).status == 404


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_pages_about_tokens_ask_which_model_where_there_are_several(
    model_dir: Path, other_dir: Path, path: str
) -> None:
    app, _ = both(model_dir, other_dir)
    body: dict[str, Any] = {"prompt": "The fox"} if path == "/tokenize" else {"tokens": [300, 301]}
    error = post(app, path, body).json()["error"]
    assert (error["param"], error["code"]) == ("model", "missing_parameter")
    by_name = [post(app, path, {"model": name, **body}).json() for name in ("tiny", "other")]
    assert by_name[0] != by_name[1]


def test_the_tokenizers_page_is_that_of_the_model_named(model_dir: Path, other_dir: Path) -> None:
    app, _ = both(model_dir, other_dir)
    assert get(app, "/tokenizer_info").status == 400
    shown = get(app, "/tokenizer_info", query="model=other").json()
    assert shown["chat_template"] == "{{ messages[0].content }}!"
