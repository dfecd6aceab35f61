#!/usr/bin/env python3
"""Writes what Python's Jinja2, set up as Hugging Face's transformers sets it up, makes of every template
here for every conversation (expected.json) and of every expression (expressions.json).

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


def new_environment():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = NOW.strftime
    return environment


def render(source, messages):
    environment = new_environment()
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


# What expressions find defined.
PRELUDE = (
    "{%- set d = {'a': 1, 'b': [1, 'x', none, true], 'c': {'k': 2.5}} -%}"
    "{%- set l = [1, 'two', none, true, 2.0] -%}"
)


def evaluate(expression):
    try:
        return {"text": new_environment().from_string(f"{PRELUDE}{{{{ {expression} }}}}").render()}
    except jinja2.exceptions.TemplateSyntaxError:
        raise
    # Whatever goes wrong: in a template it is all the same.
    except Exception as error:
        return {"error": str(error)}


def write(name, value):
    text = json.dumps(value, indent=1, ensure_ascii=False)
    (HERE / name).write_text(text + "\n")


def main():
    conversations = json.loads((HERE / "conversations.json").read_text())
    expected = {
        path.name: {
            name: render(path.read_text(), messages) for name, messages in conversations.items()
        }
        for path in sorted((HERE / "templates").glob("*.jinja"))
    }
    write("expected.json", expected)
    expressions = (HERE / "expressions.txt").read_text().split("\n")
    results = {expression: evaluate(expression) for expression in expressions if expression}
    write("expressions.json", {"prelude": PRELUDE, "results": results})


if __name__ == "__main__":
    main()
