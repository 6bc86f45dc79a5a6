from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from trl.chat_template_utils import add_response_schema, supports_tool_calling

from ft_dagster.data.rendering.call_format import Call, CallFormat, CallsRead
from ft_dagster.data.rendering.chat_template import render_chat
from ft_dagster.data.rendering.learn_calls import NoCalls, format_of
from ft_dagster.data.rows.rows import Message
from ft_dagster.data.rows.tool_schemas import schemas_of
from ft_dagster.data.sources.turns import as_json
from tests.call_templates import OWN, TEMPLATES, WRITING
from tests.tiny_model import tiny_tokenizer as make_tokenizer

ONE_CALL = ("gptoss", "llama3_1", "llama3_2")  # a turn
PARAMETERS: dict[str, dict[str, Any]] = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "share": {"type": "number"},
    "exact": {"type": "boolean"},
    "places": {"type": "array", "items": {"type": "string"}},
    "how": {"type": "object"},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "It looks something up.",
            "parameters": {
                "type": "object",
                "properties": {key: {**kind, "description": "One."} for key, kind in PARAMETERS.items()},
            },
        },
    }
    for name in ("get_weather", "read_map")
]
SCHEMAS = schemas_of(TOOLS)
WEATHER = Call(
    "get_weather",
    {
        "city": "São 東京",
        "days": 3,
        "exact": True,
        "how": {"near": ["a, b", 2]},
        "places": ["x"],
        "share": 0.5,
    },
)
MAP = Call("read_map", {"city": "Oslo"})


@pytest.fixture(scope="module")
def of_template() -> Callable[[str], Any]:
    """A tokenizer with a template of that name."""

    def make(name: str) -> Any:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = (TEMPLATES | OWN)[name]
        return tokenizer

    return make


def answer(tokenizer: Any, *calls: Call, content: str = "", **more: Any) -> str:
    """What the template writes after the question and what every answer begins with."""
    named = [
        {
            "type": "function",
            "id": f"abcdefgh{n}",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for n, call in enumerate(calls)
    ]
    said = {**({"tool_calls": named} if named else {}), **more}
    turn = Message("assistant", content, as_json(said) if said else "")
    whole, plain = (
        render_chat(
            [Message("user", "Is it going to rain?"), each], tokenizer, tools=as_json(TOOLS)
        ).rpartition("rain?")[2]
        for each in (turn, Message("assistant", "0"))
    )
    begun = next(n for n, (one, other) in enumerate(zip(whole, plain, strict=False)) if one != other)
    return whole[begun:]


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_are_learned_of_every_template_that_trl_ships_and_that_writes_them(
    of_template: Callable[[str], Any], name: str
) -> None:
    """TRL says of a template whether it carries calls and tools' answers; all that do are learned."""
    tokenizer = of_template(name)
    if name in WRITING:
        assert isinstance(format_of(tokenizer), CallFormat)
        return
    assert not supports_tool_calling(tokenizer)
    with pytest.raises(
        NoCalls, match=r"leaves the calls of an answer out|refuses a call|cannot be read back"
    ):
        format_of(tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_what_a_template_renders_is_read_back(of_template: Callable[[str], Any], name: str) -> None:
    tokenizer = of_template(name)
    learned = format_of(tokenizer)
    for calls in ((WEATHER,), (MAP,), (Call("read_map", {}),), (Call("unknown", {"city": "x"}),)):
        assert learned.read(answer(tokenizer, *calls), SCHEMAS) == CallsRead(calls)
    assert learned.read("It rains in {Oslo}: 3 < 4, [yes].", SCHEMAS) == CallsRead(())
    assert (learned.between is None) == (name in ONE_CALL)
    if name not in ONE_CALL:
        assert learned.read(answer(tokenizer, WEATHER, MAP), SCHEMAS) == CallsRead((WEATHER, MAP))


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_a_call_that_breaks_off_is_broken_wherever_it_does(
    of_template: Callable[[str], Any], name: str
) -> None:
    tokenizer = of_template(name)
    learned, call = format_of(tokenizer), Call("get_weather", {"city": "Rome", "days": 3})
    whole = answer(tokenizer, call)
    needed = whole.rstrip()
    for end in (*learned.ends, *(["<|tool_response>"] if learned.says_behind else [])):
        needed = needed.removesuffix(end).rstrip()
    for cut in range(len(needed)):
        assert learned.read(needed[:cut], SCHEMAS).calls == ()
    assert learned.read(needed, SCHEMAS).calls == (call,)
    behind = CallsRead((call,)) if learned.says_behind else CallsRead((), broken=True)
    assert learned.read(f"{needed} and more", SCHEMAS) == behind
    assert learned.read(needed[:-1], SCHEMAS).broken


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_a_text_before_calls_is_none_of_them(of_template: Callable[[str], Any], name: str) -> None:
    tokenizer = of_template(name)
    learned = format_of(tokenizer)
    read = learned.read(answer(tokenizer, MAP, content="I look it up."), SCHEMAS)
    assert read == CallsRead((MAP,)) or not learned.opens.strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WRITING if name not in OWN])
def test_a_call_within_a_thought_is_none(of_template: Callable[[str], Any], name: str) -> None:
    tokenizer = of_template(name)
    learned = format_of(tokenizer)
    opened, closed = learned.thought
    assert bool(closed) == (
        "It thinks." in answer(tokenizer, MAP, reasoning_content="It thinks.", thinking="It thinks.")
    )
    if not closed:
        return
    called = answer(tokenizer, MAP)
    thinks = f"{opened} Perhaps {called} or not {closed} "
    assert learned.read(f"{thinks}It rains.", SCHEMAS) == CallsRead(())
    assert learned.read(f"{thinks}{called}", SCHEMAS) == CallsRead((MAP,))
    assert learned.read(thinks.partition(closed)[0], SCHEMAS) == CallsRead(())
    if opened:  # where the prompt has begun the thought
        begun = thinks.removeprefix(opened)
        assert learned.read(f"{begun}{called}", SCHEMAS, after=f"asks\n{opened}\n") == CallsRead((MAP,))
        assert learned.read(begun.partition(closed)[0], SCHEMAS, after=f"asks\n{opened}\n") == CallsRead(())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WRITING if name not in OWN])
def test_transformers_own_parser_reads_the_same_calls(of_template: Callable[[str], Any], name: str) -> None:
    """By the response templates that TRL has for some, where the template's own text is given."""
    tokenizer = of_template(name)
    learned = format_of(tokenizer)
    try:
        add_response_schema(tokenizer)
    except ValueError:  # TRL has none for it
        return
    call = Call("get_weather", {"city": "Rome", "days": 3, "places": ["x", "y"]})
    text = answer(tokenizer, call)
    said = tokenizer.parse_response(text, prefix="", tools=TOOLS)["tool_calls"]
    theirs = [Call(each["function"]["name"], each["function"]["arguments"]) for each in said]
    assert list(learned.read(text, SCHEMAS).calls) == theirs == [call]


def test_white_space_of_json_is_free(of_template: Callable[[str], Any]) -> None:
    learned = format_of(of_template("qwen2_5"))
    text = '<tool_call>{"arguments":{"city":"Oslo"},\n "name" : "read_map"}</tool_call>'
    assert learned.read(text, SCHEMAS) == CallsRead((MAP,))


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("7", {"type": "string"}, "7"),
        ("7", {"type": "integer"}, 7),
        ("True", {"type": "boolean"}, True),
        ("null", {"type": ["integer", "null"]}, None),
        ("7", {"type": ["integer", "string"]}, "7"),
        ("7", {"$ref": "#/$defs/count"}, 7),
        ("7", {"enum": [7, 8]}, 7),
        ("seven", {"type": "integer"}, "seven"),
        ("7", None, "7"),
    ],
)
def test_a_bare_text_is_what_its_schema_takes(
    of_template: Callable[[str], Any], text: str, schema: dict[str, Any] | None, value: Any
) -> None:
    learned = format_of(of_template("qwen3_5_nothink"))
    call = f"<tool_call>\n<function=f>\n<parameter=a>\n{text}\n</parameter>\n</function>\n</tool_call>"
    known = {
        "f": {"$defs": {"count": {"type": "integer"}}, "properties": {} if schema is None else {"a": schema}}
    }
    (read,) = learned.read(call, known).calls
    assert read.arguments["a"] == value
    assert type(read.arguments["a"]) is type(value)


def test_a_base_without_a_template_writes_no_calls() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(NoCalls, match="it has no chat template"):
        format_of(tokenizer)


def test_a_format_is_kept_until_the_template_changes(of_template: Callable[[str], Any]) -> None:
    tokenizer = of_template("qwen2_5")
    first = format_of(tokenizer)
    assert format_of(tokenizer) is first
    tokenizer.chat_template = TEMPLATES["llama3_1"]
    assert format_of(tokenizer) != first


@pytest.mark.slow
def test_hostile_answers_end_in_time(of_template: Callable[[str], Any]) -> None:
    """Nothing that a model can write takes long, or more than the stack."""
    for name in WRITING:
        learned = replace(format_of(of_template(name)), ends=("<|im_end|>",))
        for text in (")" * 8_000, "{" * 8_000, '{"a":' * 2_000, "[" * 8_000, " " * 8_000, "\n<x>" * 2_000):
            called = f"{learned.opens}f{learned.after_name}a{learned.after_key}{text}"
            assert learned.read(called, SCHEMAS).calls == ()
        assert learned.read("a" + " " * 200_000 + "b", SCHEMAS) == CallsRead(())
