"""Compares chat templates, rendered by a program, with Python's Jinja2 as `transformers` sets it up.

chat_templates.py FOLDER PROGRAM     FOLDER has the templates (*.jinja), PROGRAM is examples/chat_template; scripts/chat-templates
                                     gets both.

Prints what differs; exit code 1 where that is none of the exceptions below.
"""
import datetime
import json
import pathlib
import subprocess
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

# Templates in which conversations differ: how many, and why.
NO_TOOLS = "Python fails on a loop over tools that are none; here it is an empty one"
EXCEPTIONS = {
    "CohereForAI-c4ai-command-r-plus-tool_use": (18, NO_TOOLS),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": (16, NO_TOOLS),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": (16, NO_TOOLS),
    "llama-cpp-deepseek-r1": (4, "Python cannot write a generator as JSON; here it is a list"),
    "meetkai-functionary-medium-v3.1": (4, "Python escapes strings for HTML that are added to one marked as safe"),
}


class Generation(jinja2.ext.Extension):
    """The tags that `transformers` adds."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


class Refused(Exception):
    pass


def refuse(words):
    raise Refused(words)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def expected(case):
    e = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    e.filters["tojson"] = tojson
    e.globals["raise_exception"] = refuse
    e.globals["strftime_now"] = lambda f: datetime.datetime.now().strftime(f)
    try:
        return {
            "ok": e.from_string(case["template"]).render(
                messages=case["messages"],
                tools=case["tools"],
                add_generation_prompt=case["answer"],
                bos_token=case["bos"],
                eos_token=case["eos"],
            )
        }
    except Refused as words:
        return {"refused": str(words)}
    except Exception as error:
        return {"failed": str(error)}


def conversations():
    s = {"role": "system", "content": "You are terse."}
    u, u2 = {"role": "user", "content": "What is 2+2?"}, {"role": "user", "content": "And  3+3?\n\n  Why? "}
    a, a2 = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": " It is 6.\n"}
    odd = {"role": "user", "content": "<|im_end|> {{ x }} {% if %} é 日本 \U0001f600 <b>\"'&\\ \t\r\n"}
    think = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\n4"}
    reasoning = {"role": "assistant", "content": "4", "reasoning_content": "Two and two."}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call00001", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "é<&>"}}}
        ],
    }
    result = {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "4"}
    tools = [
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "Adds <two> numbers & \"more\"",
                "parameters": {
                    "type": "object",
                    "properties": {"a": {"type": "integer", "description": "é"}, "b": {"type": "string", "enum": ["x", "y"]}},
                    "required": ["a"],
                },
            },
        }
    ]
    parts = {"role": "user", "content": [{"type": "text", "text": "What is 2+2?"}]}
    return [
        ([u], None, True),
        ([u], None, False),
        ([s, u], None, True),
        ([s, u, a], None, False),
        ([s, u, a, u2], None, True),
        ([u, a, u2], None, True),
        ([u, a, u2, a2, u], None, True),
        ([odd], None, True),
        ([s, odd, a, odd], None, True),
        ([u, think, u2], None, True),
        ([s, u, think, u2, a2, u], None, True),
        ([u, reasoning, u2], None, True),
        ([u], tools, True),
        ([s, u], tools, True),
        ([s, u, call, result], tools, True),
        ([u, call, result, a, u2], tools, True),
        ([parts], None, True),
        ([s, parts, a, u2], None, True),
        ([u, u2], None, True),
        ([a, u], None, True),
        ([s], None, True),
        ([{"role": "user", "content": ""}], None, True),
    ]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    cases = [
        {
            "name": path.stem, "number": number, "template": path.read_text(), "messages": messages, "tools": tools,
            "answer": answer, "bos": "<s>", "eos": "</s>",
        }
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja"))
        for number, (messages, tools, answer) in enumerate(conversations())
    ]
    if not cases:
        sys.exit("there are no templates (*.jinja) in this folder")
    text = "".join(json.dumps(c) + "\n" for c in cases)
    output = subprocess.run([sys.argv[2]], input=text, capture_output=True, text=True, check=True).stdout
    counts, wrong = {"equal": 0, "refused by both": 0, "failed by both": 0}, {}
    for case, line in zip(cases, output.split("\n"), strict=False):
        want, got = expected(case), json.loads(line)
        if want == got and "ok" in want:
            counts["equal"] += 1
        elif "ok" not in want and "ok" not in got:
            counts["refused by both" if "refused" in want else "failed by both"] += 1
        else:
            wrong.setdefault(case["name"], []).append((case["number"], want, got))
    unexpected = EXCEPTIONS.keys() - wrong.keys()
    for name, differences in wrong.items():
        known, why = EXCEPTIONS.get(name, (0, "UNEXPECTED"))
        print(f"{name}: {len(differences)} conversations differ, {known} are known: {why}")
        if len(differences) != known:
            unexpected.add(name)
            for number, want, got in differences:
                print(f"  conversation {number}\n  Python:   {str(want)[:300]!r}\n  samebits: {str(got)[:300]!r}")
    print(f"{len({c['name'] for c in cases})} templates, {len(cases)} conversations: {counts}, {sum(map(len, wrong.values()))} differ")
    if unexpected:
        sys.exit(f"not as expected: {', '.join(sorted(unexpected))}")



main()
