#!/usr/bin/env python3
"""Writes expected.json: what Python's Jinja2, set up as Hugging Face's transformers sets it up,
makes of every template here for every conversation.

    pip install jinja2==3.1.6 && python3 crates/engine/tests/golden/generate.py

The Rust tests compare their own rendering with it, so it is run by hand when a template or a
conversation is added, and its output is committed.
"""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 7, 4, 9, 5, 3)


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant said, and renders what is inside."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_render")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def render(source, messages):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = NOW.strftime
    try:
        return {
            "text": environment.from_string(source).render(
                messages=messages,
                add_generation_prompt=True,
                bos_token="<s>",
                eos_token="</s>",
            )
        }
    except jinja2.exceptions.TemplateSyntaxError:
        raise
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}


def main():
    conversations = json.loads((HERE / "conversations.json").read_text())
    expected = {
        path.name: {
            name: render(path.read_text(), messages) for name, messages in conversations.items()
        }
        for path in sorted((HERE / "templates").glob("*.jinja"))
    }
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    (HERE / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
