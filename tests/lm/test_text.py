"""Text: prompts of every form, completions with their leading space, chats in a sandbox."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

import bayesft.lm
from bayesft.errors import ModelError, PromptError
from bayesft.lm.chat import render_chat
from bayesft.lm.tokenizer import read_tokenizer

TEXTS = ("Once upon a time", "  two  spaces\nand a line", "café ☃", "<s>already begun", "")


@pytest.fixture(scope="module", params=["stories260K", "babyllama361"])
def real(request: pytest.FixtureRequest, assets: Path):
    return bayesft.lm.load(assets / request.param)


def test_ids_equal_those_of_transformers(real):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(real.card.source)
    for text in TEXTS:
        ids = reference(text).input_ids
        assert real.encode(text) == ids
        assert real.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_completions_keep_their_leading_space(real):
    prompt, whole = "Once upon a time", "Once upon a time there was a café"
    completion = real.encode(whole)[len(real.encode(prompt)) :]
    assert real.decode(completion) == " there was a café"
    assert real.decode([*completion, 2, 1, 1]) == " there was a café"
    assert real.decode([1, 1]) == real.decode([]) == ""


@pytest.mark.parametrize("text", [" there was", "there", "\nThe end.", "  two", "é", ""])
def test_an_encoded_completion_says_exactly_its_text(real, text: str):
    ids = real.encode_completion(text)
    assert real.decode(ids) == text and not set(ids) & set(real.eos)


def test_an_empty_prompt_is_bos(real):
    assert real.encode("") == real.encode([]) == [1]


def test_ids_pass_through(real):
    assert real.encode([5, 6]) == real.encode(np.asarray([5, 6], np.int32)) == [5, 6]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([5, 10_000], "token 10000, outside"),
        ([-1], "token -1, outside"),
        (3.5, "type float"),
        ([1.0, 2.0], "type list"),
        ([True], "type list"),
        ([{"role": "user", "content": "hi"}], "no chat template"),
    ],
)
def test_prompts_that_are_none_are_refused(real, prompt, message: str):
    with pytest.raises(PromptError, match=message):
        real.encode(prompt)


def test_text_without_a_tokenizer_is_refused(tiny):
    with pytest.raises(PromptError, match="without a tokenizer"):
        tiny.encode("a")


def test_an_empty_prompt_without_bos_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    del config["bos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(PromptError, match="prompt is empty"):
        bayesft.lm.load(folder).encode("")


def write_bpe(folder: Path, kind: str, template: str | None) -> None:
    """A tokenizer of letters that the class in question builds in the same way."""
    words = ["<unk>", "<s>", "</s>", "▁", *"abc"]
    tokenizer = tokenizers.Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    llama = kind == "LlamaTokenizerFast"
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Metaspace() if llama else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    tokenizer.add_special_tokens(words[:3])
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("template", [None, "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "LlamaTokenizerFast", "GPT2Tokenizer"])
def test_bos_and_eos_are_put_where_transformers_puts_them(
    tmp_path: Path, kind: str, template: str | None
):
    """By the post-processor alone, whatever add_bos_token says."""
    transformers = pytest.importorskip("transformers")
    write_bpe(tmp_path, kind, template)
    bos = {"__type": "AddedToken", "content": "<s>"}
    for added in ({}, {"add_bos_token": True}, {"add_bos_token": False}):
        options = {"tokenizer_class": kind, "bos_token": bos, "eos_token": "</s>"} | added
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
        ids = transformers.AutoTokenizer.from_pretrained(tmp_path)("ab").input_ids
        ours = read_tokenizer(tmp_path)
        assert ours.encode("ab") == ids and (ours.bos, ours.eos) == (1, 2)
        assert (ids[0] == 1, ids[-1] == 2) == (template is not None, template == "<s> $A </s>")


ADDED = {
    "1": {"content": "<s>", "special": True},
    "2": {"content": "</s>", "special": True, "rstrip": True},
    "23": {"content": "<|im_end|>", "special": True},
    "24": {"content": "<think>", "special": False},
}


def test_tokens_that_only_the_config_adds_are_those_of_transformers(folder: Path):
    """A mark that tokenizer.json does not know would be split like any text."""
    transformers = pytest.importorskip("transformers")
    options = {"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": ADDED}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    tokenizer = bayesft.lm.load(folder).card.tokenizer
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ids = tokenizer.encode_plain("a<|im_end|> <think>b</s> c")
    assert ids == [3, 23, 24, 4, 2, 5]
    assert ids == reference("a<|im_end|> <think>b</s> c", add_special_tokens=False).input_ids
    decoded = reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids, continues=False) == decoded and "think" in decoded


def test_added_tokens_of_another_tokenizer_are_refused(folder: Path):
    options = {"added_tokens_decoder": ADDED | {"30": {"content": "<tool>", "special": True}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    with pytest.raises(ModelError, match="'<tool>' the id 30"):
        bayesft.lm.load(folder)


# ---- chat ---------------------------------------------------------------------------------------

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {% if message.role == 'system' %}{{ raise_exception('no system') }}{% endif %}\n"
    "{{ message.content }}{% generation %} b{% endgeneration %}\n"
    "{% endfor %}{% if add_generation_prompt %} c{% endif %}"
)
CHAT = [{"role": "user", "content": "a"}]


@pytest.fixture(params=["chat_template.jinja", "tokenizer_config.json", "named"])
def chat(folder: Path, request: pytest.FixtureRequest):
    """The tiny model with a template, in each of the places that it may be kept."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if request.param == "chat_template.jinja":
        (folder / request.param).write_text(TEMPLATE)
    elif request.param == "named":
        config["chat_template"] = [{"name": "default", "template": TEMPLATE}]
    else:
        config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return bayesft.lm.load(folder)


def test_messages_follow_the_template_with_one_bos(chat):
    assert chat.encode(CHAT) == [1, 3, 4, 5]


def test_a_template_refuses_in_its_own_words(chat):
    with pytest.raises(PromptError, match="no system"):
        chat.encode([{"role": "system", "content": "a"}])


@pytest.mark.parametrize("template", ["a\n{% for x %}", "a\n{{ x", "a\n{{ x | no_filter }}"])
def test_a_template_that_is_none_is_named(template: str):
    with pytest.raises(PromptError, match=r"(?s)^Line 2 of .* no Jinja.*chat_template\.jinja"):
        render_chat(CHAT, template, {})


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ messages[0].content + 1 }}",
        "{% for x %}",
    ],
)
def test_templates_cannot_leave_the_sandbox(folder: Path, attack: str):
    (folder / "chat_template.jinja").write_text(attack)
    with pytest.raises(PromptError, match="chat template"):
        bayesft.lm.load(folder).encode(CHAT)


CHATML = (
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' }}\n"
    "    {%- if message.reasoning_content %}{{- message.reasoning_content | trim }}{% endif %}\n"
    "    {%- if message.content is string %}{{- message.content }}\n"
    "    {%- else %}{%- for part in message.content %}{{- part.text }}{%- endfor %}{%- endif %}\n"
    "    {%- for call in message.tool_calls or [] %}{{- call.function | tojson }}{%- endfor %}\n"
    "    {{- '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
)
INSTRUCT = (
    "{% set ns = namespace(system='') %}\n"
    "{% if messages[0]['role'] == 'system' %}\n"
    "    {% set ns.system = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}\n"
    "    {% set turns = messages[1:] %}\n"
    "{% else %}{% set turns = messages %}{% endif %}\n"
    "{% for message in turns %}\n"
    "    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
    "        {{ raise_exception('roles must alternate') }}\n"
    "    {% endif %}\n"
    "    {% if message['role'] == 'user' %}\n"
    "{{ bos_token + '[INST] ' }}{{ ns.system if loop.first else '' }}"
    "{{ message.content + ' [/INST]' }}\n"
    "    {% else %}\n"
    "{% generation %}{% set said = message.content %}{{ ' ' + said | trim }}{% endgeneration %}\n"
    "{{ said is defined }}{{ eos_token }}\n"
    "    {% endif %}\n"
    "    {% if loop.index0 > 8 %}{% break %}{% endif %}\n"
    "{% endfor %}\n"
)
TURNS = [
    {"role": "user", "content": "  a <b> & 'c' "},
    {"role": "assistant", "content": "é ☃\n", "tool_calls": None},
    {"role": "user", "content": "d"},
]
SYSTEM = [{"role": "system", "content": " e\n"}]
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "f"}], "thinking": " g "}
CALL = {"function": {"name": "h", "arguments": {"é": "<i>"}}}


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (CHATML, TURNS),
        (CHATML, SYSTEM + TURNS),
        (CHATML, [*TURNS, ANSWER]),
        (CHATML, [*TURNS, ANSWER | {"content": "", "tool_calls": [CALL]}, *TURNS]),
        (INSTRUCT, TURNS),
        (INSTRUCT, SYSTEM + TURNS),
        (INSTRUCT, TURNS + TURNS),
    ],
)
def test_conversations_are_those_of_transformers(folder: Path, template: str, messages):
    transformers = pytest.importorskip("transformers")
    (folder / "chat_template.jinja").write_text(template)
    lm = bayesft.lm.load(folder)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)

    def rendered(render):
        try:
            return render()
        except Exception as error:
            return "alternate" in str(error)

    special = lm.card.tokenizer.special_tokens
    ours = rendered(lambda: render_chat(messages, template, special))
    theirs = rendered(
        lambda: reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )
    assert ours == theirs
    if isinstance(ours, str):
        ids = reference.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert lm.encode(messages) == ids


def test_messages_that_are_more_than_data_are_refused(chat):
    with pytest.raises(PromptError, match="not plain data"):
        chat.encode([{"role": "user", "content": "a", "image": object()}])


@pytest.mark.parametrize(
    "tokens",
    [[[99999]], [[-1]], [[1] * 600], [1, 2], [], [[]], np.zeros((0, 3), int), [[1], [1, 2]],
     [[1.5]], [[True]], [["a"]], [[2**40]], np.array([[2**32 + 5]]),
     np.array([[2**63 + 5]], np.uint64), "a", None],
)  # fmt: skip
def test_what_is_no_batch_of_ids_has_no_logits(real, tokens):
    with pytest.raises(PromptError, match="no logits"):
        real.logits(tokens)


def test_ids_of_few_bits_have_logits(real):
    wide = real.logits(np.asarray([[1, 5]]))
    np.testing.assert_array_equal(real.logits(np.asarray([[1, 5]], np.uint8)), wide)
