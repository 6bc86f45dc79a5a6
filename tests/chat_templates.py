"""Chat templates in the shape of those that models come with, for ChatML tokens as the tiny model has."""

from __future__ import annotations

# As Qwen 3 has it: an answer after the last question begins with its thought, an empty one where it has none.
THINKS = (
    "{%- set last = namespace(question=0) %}"
    "{%- for m in messages %}{% if m.role == 'user' %}"
    "{% set last.question = loop.index0 %}{% endif %}{% endfor %}"
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and loop.index0 > last.question %}"
    "{%- set thought = m.content.split('</think>')[0] if '</think>' in m.content else '' %}"
    "{{- '<think>\n' + thought.split('<think>')[-1].strip('\n') + '\n</think>\n\n' }}"
    "{{- m.content.split('</think>')[-1].lstrip('\n') }}"
    "{%- else %}{{- m.content.split('</think>')[-1].lstrip('\n') }}{% endif %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"
)
# As models have it that always think: the generation prompt opens a thought, and no answer has one.
OPENS_A_THOUGHT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
# A turn's beginning is written with an answer alone: nothing of it is in the generation prompt.
NO_GENERATION_PROMPT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
)
# Nothing marks where a turn ends.
ENDLESS = (
    "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
# Calls as Mistral writes them: in one list, and each by its name.
_TOOLS = (
    "{% for tool in tools or [] %}{{ '<|im_start|>system\n' + tool.function.name + ' ' }}"
    "{{ tool.function.parameters.properties | tojson + '<|im_end|>\n' }}{% endfor %}"
)
CALLS_IN_A_LIST = (
    f"{_TOOLS}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}"
    "{{ '{\"name\": ' + call.function.name | tojson + ', \"arguments\": ' }}"
    "{{ call.function.arguments | tojson }}"
    "{{ ', \"id\": ' + call.id | tojson + '}' }}{{ ', ' if not loop.last }}{% endfor %}]"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALLS_BY_TAG = (
    f"{_TOOLS}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for call in m.tool_calls or [] %}"
    "{{ '[TOOL_CALLS]' + call.function.name + '[ARGS]' + call.function.arguments | tojson }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# With names and reasoning, too.
CALLS_AND_THOUGHTS = CALLS_BY_TAG.replace(
    "m.role + '\n' + (m.content or '') }}",
    "m.role + (' ' + m.name if m.name else '') + '\n' }}"
    "{{ '<think>' + m.reasoning_content + '</think>' if m.reasoning_content else '' }}{{ m.content or '' }}",
)
