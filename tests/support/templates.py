"""Chat templates, and the request that they are rendered with."""

from __future__ import annotations

from toolprm_lite.tools import parse_tools

TOOLS = parse_tools(
    [
        {
            "name": "book_table",
            "description": "Book a table — <b>now</b>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
        {"name": "clock", "description": "The time", "parameters": {}},
    ]
)
USER = {"role": "user", "content": "A table in Lyon?"}
HERMES_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n' }}{%- endif %}
    {{- "<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": ..., \\"arguments\\": ...}\\n</tool_call><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>\\n' }}
    {%- elif message.tool_calls %}
        {%- generation %}
        {%- for call in message.tool_calls %}
            {{- '<|im_start|>assistant\\n<tool_call>' + call.function.name }}
            {{- call.function.arguments | tojson }}{{- '</tool_call><|im_end|>\\n' }}
        {%- endfor %}
        {%- endgeneration %}
    {%- elif message.role != 'system' %}
        {%- if message.role == 'skip' %}{% continue %}{% endif %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""  # noqa: E501
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRICT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"
)
