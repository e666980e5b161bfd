"""What the core, the judge and the token masks make of many schemas.

    python tests/schema_suite.py [--cases CASES.jsonl] [--tools TOOLS.jsonl] [--answers N]

A case is {"keyword", "schema", "instance", "valid"}, as in JSON-Schema-Test-Suite; a tool is
{"name", "description", "parameters"}. For each schema: it is compiled within a time limit, or
refused by name. For each case: the verdict on the instance, alone and as a parameter of a tool,
whole and cut into pieces, equals jsonschema-rs's and the case's own. What a mask lets through
validates: random walks through the masks, and with --answers N searches by the embedded model.
"""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import numpy as np

from toolprm_lite import _core
from toolprm_lite.constraint import Vocabulary
from toolprm_lite.errors import ConstraintError, SchemaWarning, ToolsError
from toolprm_lite.formats import JSON_LIST
from toolprm_lite.judge import ArgumentJudge
from toolprm_lite.schema import closed_schema
from toolprm_lite.tools import Tool

LIMIT_MS = 50.0
# In draft 2020-12 `format` is an annotation; here it is asserted, as token masks assert it.
ASSERTED = ("format",)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def as_tool(schema: Any) -> dict[str, Any]:
    """A tool whose one parameter has this schema; its definitions move to the root."""
    definitions = {}
    if isinstance(schema, dict):
        definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        schema = {key: value for key, value in schema.items() if key not in definitions}
    return {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
        **definitions,
    }


def refers_to_root(schema: Any) -> bool:
    """Whether a reference means another place once the schema is inside a tool."""
    references = [
        part for part in json.dumps(schema).split('"$ref": "')[1:] if not part.startswith("http")
    ]
    return any(not part.startswith(("#/$defs/", "#/definitions/")) for part in references)


def reference(schema: Any) -> Any:
    """The validator of a schema as it is given; some are of draft 4."""
    try:
        return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    except jsonschema_rs.ValidationError:
        return jsonschema_rs.Draft4Validator(schema, validate_formats=True)


def verdict(parameters: dict[str, Any], instance: Any, stride: int) -> bool | None:
    """The core's and the judge's, on a response that is fed in pieces; None where refused."""
    text = json.dumps([{"name": "f", "arguments": {"value": instance}}]).encode()
    try:
        segmenter = _core.Segmenter(
            json.dumps([{"name": "f", "parameters": parameters}]),
            judge=ArgumentJudge([[parameters]]),
        )
    except ValueError:
        return None
    for at in range(0, len(text), stride):
        segmenter.feed(text[at : at + stride])
    return segmenter.finished


def check_cases(path: Path) -> int:
    """Compare the verdicts on cases; returns how many are wrong."""
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for case in read_lines(path):
        keyword, schema, instance = case["keyword"], case["schema"], case["instance"]
        if refers_to_root(schema):
            counts["references that mean the root"] += 1
            continue
        parameters = as_tool(schema)
        counts["cases"] += 1
        found = [verdict(parameters, instance, stride) for stride in (1, 3, 10_000)]
        if found[0] is None:
            # Such as $id: named when the tool is read.
            counts["schemas the core refuses"] += 1
        elif len(set(found)) > 1:
            wrong[f"{keyword}: pieces and whole differ"] += 1
        else:
            if found[0] != reference(schema).is_valid(instance):
                wrong[f"{keyword}: not jsonschema-rs's verdict"] += 1
            if found[0] != case["valid"]:
                name = "asserted formats" if keyword in ASSERTED else f"{keyword}: not the suite's"
                (counts if keyword in ASSERTED else wrong)[name] += 1
        check_reading(case, parameters, counts, wrong)
    report("cases", counts, wrong)
    return sum(wrong.values())


def check_reading(
    case: dict[str, Any], parameters: dict[str, Any], counts: Counter[str], wrong: Counter[str]
) -> None:
    """What is read as a tool, with its repairs, accepts nothing that the schema refuses."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", SchemaWarning)
            tool = Tool.from_dict({"name": "f", "parameters": parameters})
    except ToolsError:
        counts["refused as tools, by name"] += 1
        return
    closed = closed_schema(tool.parameters)
    spent = 1e3 * (time.perf_counter() - began)
    if spent > LIMIT_MS:
        wrong[f"{case['keyword']}: {spent:.0f} ms to read"] += 1
    if warned:
        counts["with keywords that are named in a warning"] += 1
    judge = ArgumentJudge.of([tool.parameters])
    segmenter = _core.Segmenter(json.dumps([{"name": "f", "parameters": closed}]), judge=judge)
    segmenter.feed(json.dumps([{"name": "f", "arguments": {"value": case["instance"]}}]).encode())
    counts["read as tools"] += 1
    if segmenter.finished and not case["valid"] and case["keyword"] not in ASSERTED:
        wrong[f"{case['keyword']}: accepted as a tool's value, though invalid"] += 1
    if not segmenter.finished and case["valid"]:
        counts["valid, but refused as a tool's value (closed objects, inferred types)"] += 1


def check_tools(path: Path, vocabulary: Vocabulary, walks: int) -> int:
    """Read tools, make their masks, and walk through these at random."""
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    slowest = 0.0
    rng = random.Random(0)
    for record in read_lines(path):
        counts["tools"] += 1
        began = time.perf_counter()
        try:
            tool = Tool.from_dict(record)
            _core.Segmenter(
                json.dumps([{"name": tool.name, "parameters": closed_schema(tool.parameters)}])
            )
        except ToolsError as error:
            counts[f"refused: {error}"[:120]] += 1
            continue
        spent = 1e3 * (time.perf_counter() - began)
        slowest = max(slowest, spent)
        if spent > LIMIT_MS:
            wrong[f"{tool.name}: {spent:.0f} ms to read"] += 1
        validator = reference(record["parameters"])
        for _ in range(walks):
            answer = walk(tool, vocabulary, rng)
            if answer is None:
                counts["walks given up (too long, or dead)"] += 1
                continue
            counts["walks"] += 1
            if not validator.is_valid(answer):
                wrong[f"{tool.name}: {json.dumps(answer)[:200]}"] += 1
    print(f"slowest tool to read: {slowest:.1f} ms")
    report("tools", counts, wrong)
    return sum(wrong.values())


def walk(tool: Tool, vocabulary: Vocabulary, rng: random.Random) -> Any:
    """The arguments of a call that a random walk through the mask has written, judged as a search
    judges them; None where it came to no end."""
    constraint = vocabulary.constraint([tool], JSON_LIST, tool_choice=tool.name, max_calls=1)
    judge = ArgumentJudge.of([tool.parameters])
    closed = closed_schema(tool.parameters)
    segmenter = _core.Segmenter(
        json.dumps([{"name": tool.name, "parameters": closed}]), judge=judge, max_calls=1
    )
    matcher, forced = constraint.start()
    masks = np.zeros((1, constraint.words), np.uint32)
    written = forced
    for _ in range(400):
        segmenter.feed(b"".join(TOKENS[token] for token in written))
        if segmenter.dead:
            return None
        if segmenter.finished:
            (call,) = json.loads(segmenter.text)
            return call["arguments"]
        constraint.fill([matcher], masks)
        allowed = np.flatnonzero(np.unpackbits(masks.view(np.uint8), bitorder="little"))
        # What closes is preferred, or random walks never end.
        closing = [token for token in allowed if TOKENS[token][:1] in (b'"', b"]", b"}")]
        token = int(rng.choice(closing if closing and rng.random() < 0.6 else allowed))
        written = [token, *constraint.advance(matcher, token)]
    return None


TOKENS = [bytes([value]) for value in range(256)] + [b'"}', b'", "', b'": ', b"}]", b""]


def byte_vocabulary() -> Vocabulary:
    """A token for each byte, some for more, and one that ends."""
    return Vocabulary(TOKENS, {len(TOKENS) - 1}, lambda text: list(text.encode()))


def check_answers(path: Path, count: int) -> int:
    """Ask the embedded model to call tools drawn at random; whole answers must validate."""
    from toolprm_lite import SearchConfig, Searcher

    records = list(read_lines(path))
    random.Random(1).shuffle(records)
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    with Searcher.from_model() as searcher:
        for record in records[:count]:
            tool = Tool.from_dict(record)
            question = f"Use {tool.name}: {tool.description[:200]}"
            config = SearchConfig(tool_choice=tool.name, max_tokens=256)
            try:
                result = searcher.search(question, [tool], config)
            except ConstraintError as error:
                wrong[f"{tool.name}: {error}"] += 1
                continue
            counts["complete" if result.complete else "incomplete"] += 1
            validator = reference(record["parameters"])
            for call in result.calls if result.complete else []:
                counts["calls"] += 1
                if not validator.is_valid(call["arguments"]):
                    wrong[f"{tool.name}: {json.dumps(call)[:200]}"] += 1
    report("answers of the embedded model", counts, wrong)
    return sum(wrong.values())


def report(title: str, counts: Counter[str], wrong: Counter[str]) -> None:
    print(f"== {title}")
    for name, count in [*counts.most_common(), *((f"WRONG {n}", c) for n, c in wrong.items())]:
        print(f"{count:7} {name}")


@click.command()
@click.option("--cases", type=click.Path(exists=True, path_type=Path))
@click.option("--tools", type=click.Path(exists=True, path_type=Path))
@click.option("--walks", default=3, help="Random walks through each tool's mask.")
@click.option("--answers", default=0, help="Tools that the embedded model is asked to call.")
def main(cases: Path | None, tools: Path | None, walks: int, answers: int) -> None:
    """Check schemas, cases and tools; exit code 1 where something is wrong."""
    warnings.simplefilter("ignore", SchemaWarning)
    wrong = 0
    if cases is not None:
        wrong += check_cases(cases)
    if tools is not None:
        wrong += check_tools(tools, byte_vocabulary(), walks)
    if tools is not None and answers:
        wrong += check_answers(tools, answers)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
