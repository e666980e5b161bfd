"""The command line: what people see, what programs read, and that no run loses or mixes results."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.table import Table

from toolprm_lite import SearchConfig, Searcher, load_tools
from toolprm_lite.cli import main
from toolprm_lite.cli.output import drawing
from toolprm_lite.errors import ContextError
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.search.result import SearchResult, Stats, Step, confidence
from toolprm_lite.search.trace import TraceNode

ROOT = Path(__file__).parents[2]
TOOLS = str(ROOT / "examples/weather.json")
PROBLEMS = str(ROOT / "examples/problems.jsonl")
HELP_PAGE = ROOT / "docs" / "cli.md"
# click 8.1 mixes stderr into stdout unless set otherwise; later versions never do.
SEPARATE = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
RUNNER = CliRunner(**SEPARATE)
COMMAND = [sys.executable, "-m", "toolprm_lite"]


def run(*arguments: str, **more: Any) -> Result:
    result = RUNNER.invoke(
        main, ["search", *arguments], prog_name="toolprm-lite", terminal_width=80, **more
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(
    *calls: dict[str, Any],
    rewards: Sequence[float] = (),
    complete: bool = True,
    open_call: str | None = None,
    judged: Sequence[str] | None = None,
    **more: Any,
) -> SearchResult:
    """A result with the steps that its calls have; their rewards are 0.9 where none is given.
    `judged` are the kinds whose rewards are calibrated; None is a reward that is not."""
    steps: list[tuple[Any, ...]] = []
    for index, call in enumerate(calls):
        name = call["name"]
        steps.append((index, "FUNC_NAME", name, None, None))
        steps += [
            (index, "ARG_VALUE", name, key, value) for key, value in call["arguments"].items()
        ]
        steps += [(index, kind, name, None, None) for kind in ("PARAM_FINISH", "FUNC_FINISH")]
    if open_call is not None:
        steps.append((len(calls), "FUNC_NAME", open_call, None, None))
    if complete:
        steps.append((None, "TOTAL_FINISH", None, None, None))
    rewards = [*rewards, *[0.9] * (len(steps) - len(rewards))]
    defaults: dict[str, Any] = {
        "score": 0.5,
        "probability": None,
        "alternatives": [],
        "model": "fake",
        "reward": "policy",
        "strategy": "step-beam",
        "stats": Stats(prompt_tokens=120, reused_tokens=100, decode_tokens=9, drawn_tokens=30),
    }
    made = [
        Step(*step, "", reward, -0.1, reward if step[1] in (judged or ()) else None)
        for step, reward in zip(steps, rewards, strict=True)
    ]
    if judged is not None:
        defaults["reward"] = "head"
        defaults["confidence"], whole = confidence(made)
        defaults["probability"] = whole if complete else None
    return SearchResult(calls=list(calls), complete=complete, steps=made, **{**defaults, **more})


TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
PARIS = {"name": "get_forecast", "arguments": {"city": "Paris", "days": 3}}


@pytest.fixture
def small_tools(tmp_path: Path) -> str:
    """Tools that leave room in a context of 1024 single characters."""
    return write_lines(tmp_path / "small-tools.json", [TOOL])


class FakeSearcher:
    """Answers with what a function makes of the question."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.reply: Callable[[str], SearchResult] = lambda question: answer(PARIS)
        self.asked: list[str] = []
        self.opened: list[dict[str, Any]] = []
        self.config: SearchConfig | None = None
        self.tools: list[Any] = []

    def search(self, messages: Any, tools: Any, config: SearchConfig, *, reward: str) -> Any:
        self.config, self.tools = config, list(tools)
        self.asked.append(messages[-1]["content"])
        return self.reply(messages[-1]["content"])

    def reward(self, reward: str, call_format: str) -> str:
        return reward

    def run(self, *arguments: str, **more: Any) -> Result:
        """The command with a model that this searcher replaces."""
        return run("--model", self.model, *arguments, **more)

    def __enter__(self) -> FakeSearcher:
        return self

    def __exit__(self, *unused: object) -> None:
        pass


@pytest.fixture
def gguf(tmp_path: Path) -> str:
    """A file that only looks like a model."""
    path = tmp_path / "fake.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, gguf: str) -> FakeSearcher:
    """No model is opened; every question is answered with PARIS until a test says otherwise."""
    searcher = FakeSearcher(gguf)

    def from_model(model: str | None = None, **options: Any) -> FakeSearcher:
        searcher.opened.append({"model": model, **options})
        return searcher

    monkeypatch.setattr(Searcher, "from_model", from_model)
    return searcher


def write_lines(path: Path, *records: Any) -> str:
    """A file of lines: text as it is, everything else as JSON."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def read_lines(path: Path) -> list[Any]:
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# Options and help


def test_defaults_are_those_of_the_config(fake: FakeSearcher) -> None:
    assert fake.run("--tools", TOOLS, "q").exit_code == 0
    assert fake.config == SearchConfig()


def test_options_reach_the_search(fake: FakeSearcher, gguf: str) -> None:
    fake.run(
        "--tools", TOOLS, "Weather in Paris?", "--strategy", "best-of-n", "--beams", "3",
        "--expand", "5", "--samples", "7", "--temperature", "0.3", "--top-k", "9", "--top-p", "0.9",
        "--seed", "4", "--max-tokens", "99", "--max-text-tokens", "8", "--tool-choice", "required",
        "--no-parallel", "--constrain", "off", "--call-format", "hermes", "--aggregate", "min",
        "--prompt", "schemas+2", "--adapter", "lora.gguf",
        "--gpu-layers", "2", "--threads", "1", "--context", "512", "--verbose",
        "--device", "cuda:1", "--dtype", "bfloat16", "--deadline-ms", "250.5",
        "--max-decode-tokens", "300",
    )  # fmt: skip
    assert fake.config == SearchConfig(
        strategy="best-of-n", beams=3, expand=5, samples=7, temperature=0.3, top_k=9, top_p=0.9,
        seed=4, max_tokens=99, max_text_tokens=8, tool_choice="required", parallel=False,
        constrain="off", call_format="hermes", aggregate="min", deadline_ms=250.5,
        prompt="schemas+2",
        max_decode_tokens=300,
    )  # fmt: skip
    assert fake.opened == [
        {
            "model": gguf, "backend": "auto", "gpu_layers": 2, "threads": 1, "context": 512,
            "verbose": True, "device": "cuda:1", "dtype": "bfloat16", "adapter": "lora.gguf",
        }
    ]  # fmt: skip
    assert fake.tools == load_tools(TOOLS)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["search", "--help"], ["search", "--tools", "missing.json", "query"]],
)
def test_nothing_heavy_is_imported_before_it_is_needed(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from toolprm_lite.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = ['numpy', 'torch', 'llama_cpp', 'llguidance', 'jinja2', 'rich']\n"
        "heavy += ['toolprm_lite._core']\n"
        "print('loaded', [name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "loaded []", result.stderr


HELP = re.compile(r"<!-- help: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def help_section(command: str) -> str:
    """A command's help as docs/cli.md shows it."""
    result = RUNNER.invoke(main, [command, "--help"], prog_name="toolprm-lite", terminal_width=80)
    assert result.exit_code == 0
    return f"<!-- help: {command} -->\n```text\n{result.output}```\n<!-- end -->"


def with_current_help(page: str) -> str:
    return HELP.sub(lambda found: help_section(found[1]), page)


def test_the_page_of_commands_is_current() -> None:
    page = HELP_PAGE.read_text()
    assert set(HELP.findall(page)) == set(main.list_commands(click.Context(main)))
    assert page == with_current_help(page), "write it with `python tests/cli/test_cli.py`"


# Errors


BAD_TOOLS = [
    (None, "no such file"),
    ("", "the file is empty"),
    ("{", "not JSON"),
    ("7", "tools must be a list"),
    ("[]", "the list of tools is empty"),
    ('{"a": [1]}', "the tool has no name"),
    (json.dumps([{"parameters": {}}]), "the tool has no name"),
    (json.dumps([TOOL, TOOL]), "both named 'f'"),
]


def assert_error(result: Result, *parts: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(("content", "message"), BAD_TOOLS)
def test_bad_tools(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    if content is not None:
        path.write_text(content)
    assert_error(run("--tools", str(path), "query"), str(path), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the query is empty"),
        ([" \n"], "the query is empty"),
        (["q", "--beams", "0"], "beams is 0"),
        (["q", "--expand", "0"], "expand is 0"),
        (["q", "--samples", "-1"], "samples is -1"),
        (["q", "--temperature", "nan"], "temperature is nan"),
        (["q", "--model", "missing.gguf"], "missing.gguf: no such model file"),
        (["q", "--model", TOOLS], "is not a GGUF file"),
        (["q", "--model", "/dev/zero"], "/dev/zero is neither a file nor a folder"),
        (["--messages", "missing.json"], "missing.json: no such file"),
        (["--messages", TOOLS], "message 1 has role None"),
        (["--messages", __file__], "not JSON"),
        (["--messages", str(ROOT)], "can't be read"),
        (["--input", "missing.jsonl"], "missing.jsonl: no such file"),
        (["--input", os.devnull], "no problems in it"),
        (["--input", PROBLEMS, "--output", str(ROOT)], "is a folder"),
        (["--input", PROBLEMS, "--output", "no/such/folder.jsonl"], "there is no folder"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, gguf: str) -> None:
    model = [] if "--model" in arguments else ["--model", gguf]
    assert_error(run("--tools", TOOLS, *model, *arguments), message)


def test_errors_of_a_model(tiny_gguf: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(tiny_gguf), "--context", "256"]
    assert_error(run("--tools", TOOLS, "a question " * 400, *arguments), "the prompt has", "256")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:2000])
    assert_error(run("--tools", TOOLS, "q", "--model", str(broken)), "can't be loaded")
    output = tmp_path / "out.jsonl"
    for asked in (["q"], ["--input", PROBLEMS], ["--input", PROBLEMS, "--output", str(output)]):
        for reward in ("missing.safetensors", "generative"):
            result = run("--tools", TOOLS, *asked, *arguments, "--reward", reward)
            assert_error(result, f"{reward}: no such head file")
    assert not output.exists()
    assert_error(
        run("--tools", TOOLS, "q", "--tool-choice", "nope", *arguments), "tool_choice is 'nope'"
    )


def test_a_pattern_no_mask_can_hold_is_left_to_the_judge(tiny_gguf: Path, tmp_path: Path) -> None:
    tool = {
        "name": "odd",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "pattern": "(?=x)y"}},
            "required": ["a"],
        },
    }
    path = write_lines(tmp_path / "tools.json", tool)
    arguments = ["--tools", path, "--model", str(tiny_gguf), "--max-tokens", "4", "Do it."]
    assert run(*arguments).exit_code == 0
    assert run(*arguments, "--constrain", "off").exit_code == 0
    tool["parameters"]["properties"]["a"]["pattern"] = "(?=x"
    write_lines(tmp_path / "tools.json", tool)
    assert_error(run(*arguments), "tool 1 ('odd')", "properties/a/pattern")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of QUERY, --messages and --input"),
        (["q", "--messages", "m.json"], "exactly one of"),
        (["q", "--input", "i.jsonl"], "exactly one of"),
        (["q", "--output", "o.jsonl", "--tools", TOOLS], "--output is for"),
        (["q"], "Give --tools"),
        (["q", "--tools", TOOLS, "--strategy", "nope"], "Invalid value for '--strategy'"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


# One question


def test_json_has_the_documented_fields(tiny_gguf: Path, small_tools: str) -> None:
    result = run(
        "--tools", small_tools, "Paris?", "--model", str(tiny_gguf), "--json", "--max-tokens", "60",
        "--strategy", "step-beam", "--seed", "2", "--prompt", "schemas",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    record = json.loads(result.stdout, parse_constant=pytest.fail)
    assert list(record) == [
        "calls", "complete", "score", "probability", "steps", "alternatives", "model", "reward",
        "strategy", "stats", "stopped", "missing", "confidence", "kept_greedy",
    ]  # fmt: skip
    assert record["confidence"] is None
    assert record["steps"]
    for step in record["steps"]:
        assert list(step) == [
            "call", "kind", "function", "argument", "value", "text", "reward", "logprob",
            "probability",
        ]  # fmt: skip
    assert record["alternatives"]
    for other in record["alternatives"]:
        assert {"calls", "score"} <= set(other)
    assert list(record["stats"]) == [
        "prompt_tokens", "prefill_tokens", "reused_tokens", "decode_tokens", "forced_tokens",
        "drawn_tokens", "rounds", "widened", "steps", "reward_calls", "kv_cells",
        "rows_max", "ms",
    ]  # fmt: skip
    assert list(record["stats"]["ms"]) == ["total", "prefill", "decode", "core", "reward"]


def test_json_has_the_confidence(fake: FakeSearcher) -> None:
    rewards = [0.97, 0.4, 0.8, 0.9, 0.38, 0.35]
    kinds = [kind for kind in STEP_KINDS if kind != "FUNC_NAME"]
    fake.reply = lambda question: answer(PARIS, rewards=rewards, judged=kinds)
    record = json.loads(fake.run("--tools", TOOLS, "q", "--json").stdout)
    assert record["confidence"] == [
        {"probability": 0.38, "name": None, "arguments": {"city": 0.4, "days": 0.8}}
    ]
    assert record["probability"] == 0.35
    assert [step["probability"] for step in record["steps"]] == [None, *rewards[1:]]


def test_json_is_strict(fake: FakeSearcher) -> None:
    call = {"name": "f", "arguments": {"a": math.inf, "b": "\ud83d", "c": ["é", math.nan]}}
    fake.reply = lambda question: answer(call, score=math.nan)
    result = fake.run("--tools", TOOLS, "q", "--json")
    record = json.loads(result.stdout, parse_constant=pytest.fail)
    assert record["score"] is None
    assert record["calls"][0]["arguments"] == {"a": None, "b": "\ud83d", "c": ["é", None]}


def test_answer_for_people(fake: FakeSearcher) -> None:
    fake.reply = lambda question: answer(PARIS, rewards=[0.97, 0.4, 0.001])
    result = fake.run("--tools", TOOLS, "q")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "get_forecast(     97%",
        '  city="Paris",   40%  doubtful',
        "  days=3,         <1%  doubtful",
        ")",
        "no reward head for this model: rewards are the policy's own probability",
        "120 prompt tokens (100 reused) · 9 decoded of 30 drawn · 0 forced · 0 ms",
    ]


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (answer(), ["no call   90%"]),
        (answer(rewards=[0.2], text="```json\n[]\n```"), ["no call   20%  doubtful"]),
        (
            answer(text="Which city?\nTell me.\x1b[2J"),
            ["no call: the model answers in words   90%", "Which city?", "Tell me.\\x1b[2J"],
        ),
        (answer(complete=False, text='[{"na'), [
            'incomplete: the response was cut off after 0 whole calls: [{"na',
        ]),
        (
            answer({"name": "now", "arguments": {}}, complete=False, open_call="later"),
            [
                "now()      90%",
                "later(…)   90%",
                "incomplete: the response was cut off after 1 whole call",
            ],
        ),
        (
            answer({"name": "now", "arguments": {}}, complete=False, open_call="later",
                   stopped="deadline", missing=["ci\x1bty", "the end of the list"]),
            [
                "now()      90%",
                "later(…)   90%",
                "incomplete: the response was cut off after 1 whole call",
                "missing: ci\\x1bty, the end of the list",
                "stopped early: the deadline was reached",
            ],
        ),
        (
            answer(stopped="max_decode_tokens"),
            ["no call   90%", "stopped early: the tokens to decode were used up"],
        ),
        (
            answer(kept_greedy=True),
            ["no call   90%",
             "the greedy answer: a better scored one is not above it by the margin"],
        ),
        (
            answer({"name": "now", "arguments": {}}, rewards=[1, 1, 1, 0.3]),
            ["now()            100%", "no further call   30%  doubtful"],
        ),
        (
            answer({"name": "say", "arguments": {"x": ["\x9b[1m", None]}}, rewards=[1, 1, 0]),
            ["say(                    100%",
             '  x=["\\x9b[1m", null],  100%',
             ")                         0%  doubtful"],
        ),
    ],
)  # fmt: skip
def test_other_answers(result: SearchResult, lines: list[str], fake: FakeSearcher) -> None:
    fake.reply = lambda question: result
    shown = fake.run("--tools", TOOLS, "q", "--reward", "policy").stdout.splitlines()
    note = ["rewards are the policy's own probability"] if result.steps else []
    assert shown[:-1] == lines + note


NOW = {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (
            answer(PARIS, rewards=[0.97, 0.6, 0.88, 0.9, 0.7, 0.8], judged=STEP_KINDS),
            [
                "get_forecast(     97%",
                '  city="Paris",   60%',
                "  days=3,         88%",
                ")                 60%",
                "whole response    60%",
            ],
        ),
        (
            answer(PARIS, rewards=[0.97, 0.4, 0.88, 0.9, 0.7, 0.8], judged=STEP_KINDS),
            [
                "get_forecast(     97%",
                '  city="Paris",   40%  doubtful',
                "  days=3,         88%",
                ")                 40%  doubtful",
                "whole response    40%  doubtful",
                "doubtful: city",
            ],
        ),
        (
            answer(PARIS, rewards=[0.97, 0.4, 0.88, 0.39, 0.38, 0.35], judged=STEP_KINDS),
            [
                "get_forecast(     97%",
                '  city="Paris",   40%  doubtful',
                "  days=3,         88%",
                ")                 38%  doubtful",
                "whole response    35%  doubtful",
                "doubtful: city, the whole call; the whole response",
            ],
        ),
        (
            answer(NOW, NOW, PARIS, judged=STEP_KINDS,
                   rewards=[0.3, 1, 0.8, 0.9, 1, 0.2, 0.3, 0.5]),
            [
                "now()             30%  doubtful",
                "now()             20%  doubtful",
                "get_forecast(     30%  doubtful",
                '  city="Paris",   50%',
                "  days=3,         90%",
                ")                 30%  doubtful",
                "whole response    20%  doubtful",
                "doubtful: now (call 1): the function; now (call 2): the whole call; "
                "get_forecast (call 3): the function",
            ],
        ),
        (
            answer(PARIS, rewards=[1, 1, 1, 1, 1, 0.7], judged=["TOTAL_FINISH"]),
            ["get_forecast(", '  city="Paris",', "  days=3,", ")", "whole response    70%"],
        ),
        (
            answer(PARIS, rewards=[0.2, 0.2, 0.2, 0.2, 0.8, 0], judged=["FUNC_FINISH"]),
            ["get_forecast(", '  city="Paris",', "  days=3,", ")                 80%"],
        ),
        (answer(NOW, rewards=[0.2], judged=["FUNC_FINISH"]), ["now()   90%"]),
        (answer(judged=STEP_KINDS), ["no call   90%"]),
        (answer(judged=["FUNC_NAME"]), ["no call"]),
        (
            answer(rewards=[0.2], judged=STEP_KINDS, text="Which city?"),
            [
                "no call: the model answers in words   20%  doubtful",
                "Which city?",
                "doubtful: making no call",
            ],
        ),
        (
            answer(NOW, rewards=[0.9, 0.9, 0.9, 0.1], judged=STEP_KINDS,
                   complete=False, open_call="la\x1bter"),
            [
                "now()          90%",
                "la\\x1bter(…)   10%  doubtful",
                "incomplete: the response was cut off after 1 whole call",
                "doubtful: la\\x1bter (call 2): the function",
            ],
        ),
    ],
)  # fmt: skip
def test_calibrated_answers(result: SearchResult, lines: list[str], fake: FakeSearcher) -> None:
    fake.reply = lambda question: result
    assert fake.run("--tools", TOOLS, "q").stdout.splitlines()[:-1] == lines


def test_doubt_is_coloured_on_a_terminal(
    fake: FakeSearcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    fake.reply = lambda question: answer(PARIS, rewards=[0.97, 0.4], judged=STEP_KINDS)
    shown = fake.run("--tools", TOOLS, "q", color=True).stdout
    assert "\x1b[32m 97%\x1b[0m" in shown
    assert "\x1b[33m 40%\x1b[0m\x1b[33m  doubtful\x1b[0m" in shown
    assert "\x1b[33mdoubtful: city\x1b[0m" in shown


def test_long_values_are_not_folded(fake: FakeSearcher) -> None:
    text = "word " * 60
    fake.reply = lambda question: answer({"name": "f", "arguments": {"text": text}})
    assert f'  text="{text}",   90%' in fake.run("--tools", TOOLS, "q").stdout.splitlines()


def node(
    identity: int, parent: int | None, round: int, beam: int, text: str, kinds: Sequence[str],
    score: float, draws: int, fate: str,
) -> TraceNode:  # fmt: skip
    steps = [Step(0, kind, "a", None, None, text, score, -1.0) for kind in kinds]
    return TraceNode(
        id=identity, parent=parent, round=round, beam=beam, text=text, steps=steps, score=score,
        draws=draws, greedy=draws == 0, finished="TOTAL_FINISH" in kinds, widened=True, fate=fate,
    )  # fmt: skip


def test_trace_shows_who_came_from_whom(fake: FakeSearcher) -> None:
    trace = [
        node(0, None, 1, 0, '[{"name": "b"', ["FUNC_NAME"], 0.2, 3, "outscored"),
        node(1, None, 1, 0, '[{"name": "a"', ["FUNC_NAME"], 0.7, 12, "kept"),
        node(2, None, 1, 0, "[]", ["TOTAL_FINISH"], 0.4, 1, "kept"),
        node(3, 1, 2, 0, ', "x"', [], 0.0, 1, "unknown function"),
        node(4, 1, 2, 0, ', "arguments": {}', ["PARAM_FINISH"], 0.3, 0, "kept"),
        # The declining beam was carried over and is now the better one.
        node(5, 4, 3, 1, "}]", ["FUNC_FINISH", "TOTAL_FINISH"], 0.3, 8, "kept"),
    ]
    fake.reply = lambda question: answer(trace=trace)
    shown = fake.run("--tools", TOOLS, "q", "--trace").stdout
    assert fake.config is not None
    assert fake.config.trace
    lines = [re.sub(r"^[│├└─ ]+", "", line) for line in shown.splitlines()]
    assert lines[:14] == [
        "6 candidates",
        "round 1",
        '1      0.7    x12  [{"name": "a"',
        "2      0.4     x1  []",
        '-      0.2     x3  [{"name": "b"  outscored',
        "round 2",
        'beam 1  [{"name": "a"',
        '2      0.3 argmax  , "arguments": {}',
        '-              x1  , "x"  unknown function',
        "round 3",
        'beam 2  , "arguments": {}',
        "2      0.3     x8  }]",
        "",
        "no call   90%",
    ]


def test_query_and_messages_from_files_and_stdin(fake: FakeSearcher, tmp_path: Path) -> None:
    assert fake.run("--tools", TOOLS, "-", input="From stdin\n").exit_code == 0
    messages = [{"role": "user", "content": "From a file"}]
    path = write_lines(tmp_path / "messages.json", messages)
    assert fake.run("--tools", TOOLS, "--messages", path).exit_code == 0
    path = write_lines(tmp_path / "problem.json", {"messages": messages, "tools": [TOOL]})
    assert fake.run("--messages", path).exit_code == 0
    assert [tool.name for tool in fake.tools] == ["f"]
    assert fake.asked == ["From stdin", "From a file", "From a file"]
    path = write_lines(tmp_path / "no-tools.json", messages)
    assert_error(fake.run("--messages", path), path, "no tools")
    assert_error(fake.run("--tools", TOOLS, "-", input=b"\xff"), "stdin: not UTF-8")


def test_ctrl_c_has_no_traceback(fake: FakeSearcher) -> None:
    def interrupt(question: str) -> SearchResult:
        raise KeyboardInterrupt

    fake.reply = interrupt
    result = fake.run("--tools", TOOLS, "q")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


# Codes


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (answer(PARIS), 0),
        (answer(), 3),
        (answer(text="Which city?"), 3),
        (answer(PARIS, complete=False, stopped="deadline"), 4),
        (answer(complete=False), 4),
    ],
)
def test_exit_codes(result: SearchResult, code: int, fake: FakeSearcher) -> None:
    fake.reply = lambda question: result
    for form in ((), ("--json",)):
        assert fake.run("--tools", TOOLS, "q", *form).exit_code == 0
        assert fake.run("--tools", TOOLS, "q", "--exit-code", *form).exit_code == code
    assert fake.run("--tools", TOOLS, "--exit-code", "--input", PROBLEMS).exit_code == 2


def test_an_unexpected_error(fake: FakeSearcher) -> None:
    def fail(question: str) -> SearchResult:
        raise ZeroDivisionError("in\nhere")

    fake.reply = fail
    assert_error(fake.run("--tools", TOOLS, "q"), "Error: ZeroDivisionError: in here")
    shown = fake.run("--tools", TOOLS, "q", "--verbose").stderr
    assert "Traceback" in shown
    assert "raise ZeroDivisionError" in shown


# What a terminal is shown

HOSTILE = "\x1b]0;x\x07\x9b31m\u202e[red]"
SHOWN = "\\x1b]0;x\\x07\\x9b31m\\u202e[red]"


def assert_harmless(text: str) -> None:
    assert all(char.isprintable() or char == "\n" for char in text), repr(text)


def test_nothing_steers_the_terminal(fake: FakeSearcher, tmp_path: Path) -> None:
    call = {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}
    entry = node(0, None, 1, 0, HOSTILE, ["FUNC_NAME"], 0.7, 12, "kept")
    fake.reply = lambda question: answer(call, judged=STEP_KINDS, rewards=[0.1] * 5, trace=[entry])
    for more in ((), ("--trace",)):
        shown = fake.run("--tools", TOOLS, "q", *more).stdout
        assert_harmless(shown)
        assert SHOWN in shown
    result = fake.run("--tools", TOOLS, "q", "--json")
    assert_harmless(result.stdout)
    assert "\\u009b31m\\u202e[red]" in result.stdout
    assert json.loads(result.stdout)["calls"] == [call]

    def fail(question: str) -> SearchResult:
        raise ContextError(HOSTILE)

    fake.reply = fail
    source = write_lines(tmp_path / "in.jsonl", *questions(1))
    for arguments in (["q"], ["--input", source], ["--input", source, "--verbose"]):
        result = fake.run("--tools", TOOLS, *arguments)
        assert_harmless(result.stdout + result.stderr)
        assert SHOWN in result.stderr
    result = fake.run("--tools", f"{HOSTILE}.json", "q")
    assert_error(result, f"{SHOWN}.json: no such file")
    result = fake.run("--tools", TOOLS, "q", HOSTILE)
    assert_harmless(result.stderr)
    assert SHOWN in result.stderr


def test_json_keeps_what_is_printable(fake: FakeSearcher) -> None:
    call = {"name": "f", "arguments": {"a": "Zürich 東京 \U0001f600\U000e0041\x7f\u2028"}}
    fake.reply = lambda question: answer(call)
    shown = fake.run("--tools", TOOLS, "q", "--json").stdout
    assert '"Zürich 東京 \U0001f600\\udb40\\udc41\\u007f\\u2028"' in shown
    assert json.loads(shown)["calls"] == [call]


def test_markup_in_tables_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title="[b]t")
    table.add_column("[i]c")
    table.add_row(HOSTILE)
    with drawing(120) as terminal:
        terminal.print(table)
    shown = capsys.readouterr().out
    assert_harmless(shown)
    assert all(text in shown for text in ("[b]t", "[i]c", SHOWN))


def test_many_calls_are_counted(fake: FakeSearcher) -> None:
    calls = [{"name": f"f{number}", "arguments": {"a": number}} for number in range(46)]
    fake.reply = lambda question: answer(*calls, judged=STEP_KINDS, rewards=[0.1] * 185)
    result = fake.run("--tools", TOOLS, "q")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) < 35
    assert "… and 38 more, 46 calls in all: --json has them" in [line.strip() for line in lines]
    assert all(len(line) < 800 for line in lines)
    fake.reply = lambda question: answer(*calls[:9], judged=STEP_KINDS)
    assert "f8(" in fake.run("--tools", TOOLS, "q").stdout


# Streams and devices


def shell(command: str, model: Path, tools: str) -> subprocess.CompletedProcess[str]:
    """The command in a shell: "search" is replaced by it with its model and tools."""
    search = shlex.join([*COMMAND, "search", "--model", str(model), "--tools", tools,
                         "--threads", "1", "--max-tokens", "20"])  # fmt: skip
    return subprocess.run(
        ["sh", "-c", command.replace("search", search, 1)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("search - <&-", "stdin: it is closed"),
        ("search q >&-", "stdout: it is closed"),
        ("search q >/dev/full", "stdout: No space left on device"),
        ("search q --json >/dev/full", "stdout: No space left on device"),
        ("search --tools /dev/zero q", "/dev/zero: can't be read: it is larger than 64 MiB"),
        ("search --messages /dev/zero", "/dev/zero: can't be read: it is larger than 64 MiB"),
    ],
)
def test_streams_that_do_not_work(
    command: str, message: str, tiny_gguf: Path, small_tools: str
) -> None:
    done = shell(command, tiny_gguf, small_tools)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {message}")
    assert done.stderr.count("\n") == 1


def test_streams_that_are_not_needed(tiny_gguf: Path, small_tools: str, tmp_path: Path) -> None:
    expected = shell("search q --json", tiny_gguf, small_tools).stdout
    calls = json.loads(expected)["calls"]
    done = shell("search q --json <&- 2>&-", tiny_gguf, small_tools)
    assert done.returncode == 0
    assert json.loads(done.stdout)["calls"] == calls
    # With stderr closed no file may get its number: llama.cpp writes there.
    source = write_lines(tmp_path / "in.jsonl", *questions(2), "{")
    output = tmp_path / "out.jsonl"
    done = shell(f"search --input {source} --output {output} --verbose 2>&-", tiny_gguf,
                 small_tools)  # fmt: skip
    assert done.returncode == 1
    assert [record["id"] for record in read_lines(output)] == ["p0", "p1", "line-3"]


def test_a_device_that_is_full(fake: FakeSearcher, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    result = fake.run("--tools", TOOLS, "--input", source, "--output", "/dev/full")
    assert_error(result, "/dev/full: No space left on device")


def huge(value: str) -> str:
    return f'[{{"role": "user", "content": "q"}}, {{"role": "assistant", "tool_calls": [{{"name": \
"f", "arguments": {{"a": {value}}}}}]}}, {{"role": "user", "content": "q"}}]'


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("9" * 5000, "an integer in it has thousands of digits"),
        ("[" * 900 + "]" * 900, "nested more than"),
        ("[" * 20_000 + "]" * 20_000, "nested too deep"),
        (json.dumps("[" * 20_000), "arguments"),
    ],
)
def test_huge_values(value: str, message: str, fake: FakeSearcher, tmp_path: Path) -> None:
    path = tmp_path / "messages.json"
    text = huge(value) if message != "arguments" else huge("1").replace('{"a": 1}', value)
    path.write_text(text)
    assert_error(fake.run("--tools", TOOLS, "--messages", str(path)), str(path), message)
    tools = tmp_path / "tools.json"
    tools.write_text(f'[{{"name": "f", "parameters": {{"a": {value}}}}}]')
    if message != "arguments":
        assert_error(fake.run("--tools", str(tools), "q"), str(tools))


@pytest.mark.parametrize("option", ["--tools", "--model", "--messages", "--input", "--output"])
def test_empty_values(option: str, fake: FakeSearcher) -> None:
    for given in ([option, ""], [f"{option}="]):
        result = run("--tools", TOOLS, "q", *given)
        assert result.exit_code == 2
        assert f"{option} is empty" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--context", "99999999999999999999"),
        ("--context", "4294967396"),
        ("--context", "8"),
        ("--threads", "1000"),
        ("--gpu-layers", "-7"),
        ("--gpu-layers", "99999999999"),
        ("--seed", str(1 << 64)),
        ("--deadline-ms", "1e300"),
        ("--max-decode-tokens", str(1 << 63)),
        ("--decline-odds", "1e300"),
        ("--policy-gap", "-1"),
        ("--max-tokens", "99999999"),
    ],
)
def test_numbers_have_bounds(option: str, value: str, gguf: str) -> None:
    result = run("--model", gguf, "--tools", TOOLS, "q", option, value)
    name = option[2:].replace("-", "_")
    assert_error(result, f"{name} is ", "; it must be ")


def test_margins_are_read(tiny_gguf: Path, small_tools: str) -> None:
    asked = ("--model", str(tiny_gguf), "--tools", small_tools, "q", "--max-tokens", "20")
    for right in ("0.5", "inf", "declines=1,value=.3"):
        result = run(*asked, "--margin", right, "--policy-gap", "0.5", "--json")
        assert result.exit_code == 0, result.stderr
        assert isinstance(json.loads(result.stdout)["kept_greedy"], bool)
    for wrong in ("x", "declines", "value=-1", "other=1"):
        assert_error(run(*asked, "--margin", wrong), "margin ")


def test_tools_of_several_files(fake: FakeSearcher, small_tools: str, tmp_path: Path) -> None:
    assert fake.run("--tools", TOOLS, "--tools", small_tools, "q").exit_code == 0
    assert fake.tools == [*load_tools(TOOLS), *load_tools(small_tools)]
    again = write_lines(tmp_path / "again.json", [TOOL])
    result = fake.run("--tools", small_tools, "--tools", TOOLS, "--tools", again, "q")
    assert_error(result, f"{again}: its tool 'f' has the name of one in {small_tools}")


# Interrupts


# `python -m toolprm_lite`, with a word when it has begun to watch: how long Python itself takes to
# start is unknown on a busy machine.
WATCHING = """
import sys
from toolprm_lite import __main__, interrupt
notice = interrupt.notice
def interrupted():
    notice()
    sys.stderr.write("watching\\n")
    sys.stderr.flush()
interrupt.notice = interrupted
__main__.main()
"""


def searching(model: Path, tools: str) -> subprocess.Popen[str]:
    """A search that has begun to watch for Ctrl-C."""
    command = [sys.executable, "-c", WATCHING, "search", "--model", str(model), "--tools", tools]
    settings = ["--threads", "1", "--beams", "8", "--expand", "16", "--strategy", "step-beam"]
    process = subprocess.Popen(
        [*command, *settings, "q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "watching\n"
    return process


def test_ctrl_c_at_any_moment(tiny_gguf: Path, small_tools: str) -> None:
    process = searching(tiny_gguf, small_tools)
    started = time.monotonic()
    answer, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    seconds = time.monotonic() - started
    stopped = 0
    for part in range(10):
        process = searching(tiny_gguf, small_tools)
        time.sleep(seconds * part / 10)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
        if process.returncode == 0:  # it was faster
            assert (stdout.split("(")[0], stderr) == (answer.split("(")[0], ""), part
            continue
        stopped += 1
        assert (process.returncode, stderr) == (130, "stopped\n"), part
    assert stopped >= 5


def test_a_dropped_interrupt_is_raised_again() -> None:
    script = (
        "import os, signal, sys, time, weakref\n"
        "from toolprm_lite import interrupt\n"
        "class Thing: pass\n"
        "def gone(reference): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.05)\n"
        "interrupt.notice()\n"
        "try:\n"
        "    thing = Thing()\n"
        "    reference = weakref.ref(thing, gone)\n"
        "    del thing\n"
        "    time.sleep(30)\n"
        "    print('lost')\n"
        "except KeyboardInterrupt:\n"
        "    print('raised', interrupt.seen())\n"
        "interrupt.ignore()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised True\n", "")


# Many problems


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"p{number}", "query": f"question {number}"} for number in range(count)]


def echo(question: str) -> SearchResult:
    return answer({"name": "f", "arguments": {"a": question}})


def asked_of(records: list[Any]) -> dict[Any, str]:
    return {record["id"]: record["calls"][0]["arguments"]["a"] for record in records}


def test_examples_run(fake: FakeSearcher, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    result = fake.run("--tools", TOOLS, "--input", PROBLEMS, "--output", str(output))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert re.fullmatch(r".*: 5 answered, 0 failed · [\d.]+ s\n", result.stderr)
    ids = [json.loads(line)["id"] for line in Path(PROBLEMS).read_text().splitlines()]
    assert [record["id"] for record in read_lines(output)] == ids
    assert list(read_lines(output)[0])[:2] == ["id", "calls"]


def test_results_go_to_stdout_without_output(fake: FakeSearcher, tmp_path: Path) -> None:
    fake.reply = echo
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    result = fake.run("--tools", TOOLS, "--input", source)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert asked_of(records) == {"p0": "question 0", "p1": "question 1"}
    assert result.stderr == ""
    assert fake.run("--tools", TOOLS, "--input", "-", input=Path(source).read_bytes()).stdout == (
        result.stdout
    )


def test_broken_lines_are_named_and_the_rest_runs(fake: FakeSearcher, tmp_path: Path) -> None:
    def reply(question: str) -> SearchResult:
        if question == "long":
            raise ContextError("the prompt has 9 tokens")
        return echo(question)

    fake.reply = reply
    source = tmp_path / "in.jsonl"
    rows: list[tuple[bytes, Any, str | None]] = [
        (b'\xef\xbb\xbf{"id": "a", "query": "one"}', "a", None),
        (b'{"id": "b", "query": "two"', "line-2", "not JSON: Expecting ',' delimiter at column 27"),
        (b"[]", "line-3", "not an object"),
        (b'{"query": "three"}', "line-4", None),
        (b'{"id": 7, "query": "four"}', 7, None),
        (b'{"id": "7", "query": "five"}', "7", None),
        (b'{"id": "a", "query": "again"}', "line-7", 'id "a" is line 1\'s already'),
        (b'{"id": [1], "query": "q"}', "line-8", '"id" must be a string or an integer'),
        (b'{"id": "c"}', "c", 'add "query" or "messages"'),
        (b'{"id": "d", "query": "q", "messages": []}', "d", "leave one out"),
        (b'{"id": "e", "query": ["q"]}', "e", '"query" must be a string'),
        (b'{"id": "f", "messages": []}', "f", "the list of messages is empty"),
        (b'{"id": "g", "messages": [{"role": "user"}]}', "g", "message 1 has content"),
        (b'{"id": "h", "query": "q", "tools": [{}]}', "h", "tool 1: the tool has no name"),
        (b'{"id": "i", "query": "\xff"}', "line-15", "not UTF-8"),
        (b'{"id": "j", "query": "long"}', "j", "the prompt has 9 tokens"),
        (b'{"id": "k", "query": " "}', "k", "the query is empty"),
        (b'{"id": "l", "query": "six", "x": ' + b"[" * 100_000, "line-18", "nested too deep"),
        (b'{"id": "m", "query": "seven"}', "m", None),
    ]
    source.write_bytes(b"\n".join(text for text, *_ in rows))
    output = tmp_path / "out.jsonl"
    result = fake.run("--tools", TOOLS, "--input", str(source), "--output", str(output))
    assert result.exit_code == 1
    records = read_lines(output)
    assert [record["id"] for record in records] == [identity for _, identity, _ in rows]
    complaints = result.stderr.splitlines()
    for number, (record, (_, _, message)) in enumerate(zip(records, rows, strict=True), 1):
        if message is None:
            assert "calls" in record
        else:
            assert set(record) == {"id", "error"}
            assert record["error"].startswith(f"line {number}: ")
            assert message in record["error"]
            assert complaints.pop(0) == f"Error: {record['error']}"
    assert re.search(r": 5 answered, 14 failed · ", complaints[0])


def test_any_failure_is_the_lines_own(fake: FakeSearcher, tmp_path: Path) -> None:
    def reply(question: str) -> SearchResult:
        if question == "question 1":
            raise RecursionError("deep")
        return echo(question)

    fake.reply = reply
    deep = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 20_000}]}
    asked = {"role": "user", "content": "q"}
    source = write_lines(
        tmp_path / "in.jsonl",
        *questions(3),
        {"id": "deep", "messages": [asked, deep, asked]},
        '{"id": "big", "query": "q", "tools": [{"name": "f", "parameters": {"type": "object", '
        f'"properties": {{"a": {{"type": "integer", "minimum": {10**400}}}}}}}}}]}}',
        {"id": "last", "query": "q"},
    )
    output = tmp_path / "out.jsonl"
    arguments = ["--tools", TOOLS, "--input", source, "--output", str(output)]
    result = fake.run(*arguments)
    assert result.exit_code == 1
    records = {record["id"]: record for record in read_lines(output)}
    assert list(records) == ["p0", "p1", "p2", "deep", "big", "last"]
    assert "calls" in records["last"]
    assert records["p1"]["error"].startswith("line 2: RecursionError: deep")
    assert "nested more than" in records["deep"]["error"]
    fake.reply, fake.asked = echo, []
    assert fake.run(*arguments, "--verbose").exit_code == 1
    assert fake.asked == ["question 1", *["q"] * ("calls" in read_lines(output)[-1])][:1]


def test_two_runs_never_share_an_output(fake: FakeSearcher, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    output = tmp_path / "out.jsonl"
    arguments = ["--tools", TOOLS, "--input", source, "--output", str(output)]

    def again(question: str) -> SearchResult:
        fake.reply = echo
        assert_error(fake.run(*arguments), str(output), "another run is writing to it")
        return echo(question)

    fake.reply = again
    assert fake.run(*arguments).exit_code == 0
    assert list(asked_of(read_lines(output))) == ["p0", "p1"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        "out.jsonl", "out.jsonl.settings.json",
    ]  # fmt: skip


def test_problems_without_tools(fake: FakeSearcher, tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "in.jsonl",
        {"id": 1, "query": "q", "tools": [TOOL]},
        {"id": 2, "query": "q"},
    )
    result = fake.run("--input", source)
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first["calls"]
    assert second == {"id": 2, "error": 'line 2: no tools; add "tools", or give --tools for all'}
    assert result.exit_code == 1


def test_an_interrupted_run_continues(fake: FakeSearcher, tmp_path: Path) -> None:
    def interrupted(question: str) -> SearchResult:
        if question == "question 3":
            raise KeyboardInterrupt
        if question == "question 1":
            raise ContextError("too long")
        return echo(question)

    source = write_lines(tmp_path / "in.jsonl", *questions(5))
    output = tmp_path / "out.jsonl"
    arguments = ["--tools", TOOLS, "--input", source, "--output", str(output)]
    fake.reply = interrupted
    result = fake.run(*arguments)
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        "Error: line 2: too long",
        "stopped after 3 of 5; the same command continues there",
    ]
    assert [record["id"] for record in read_lines(output)] == ["p0", "p1", "p2"]

    with output.open("ab") as file:
        file.write(b'{"id": "p3", "calls": [], "comp')
    fake.reply, fake.asked = echo, []
    result = fake.run(*arguments)
    assert result.exit_code == 0
    assert "3 answered, 0 failed, 2 there already" in result.stderr
    assert fake.asked == ["question 1", "question 3", "question 4"]
    records = read_lines(output)
    assert [record["id"] for record in records] == ["p0", "p2", "p1", "p3", "p4"]
    assert asked_of(records) == {f"p{number}": f"question {number}" for number in range(5)}

    fake.opened.clear()
    before = output.read_bytes()
    assert fake.run(*arguments).exit_code == 0
    assert fake.opened == []  # nothing to do, so no model is loaded
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--beams", "3"], "beams was 2, is 3"),
        (["--strategy", "greedy"], 'strategy was "doubt", is "greedy"'),
        (["--reward", "policy"], 'reward was "auto", is "policy"'),
        (["--model", PROBLEMS], 'model was "fake.gguf", is "problems.jsonl"'),
        (["--tools", "TOOLS2"], "tools was "),
        (["--input", PROBLEMS], 'input was "in.jsonl", is "problems.jsonl"'),
    ],
)
def test_other_settings_are_not_mixed_in(
    change: list[str], message: str, fake: FakeSearcher, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    output = tmp_path / "out.jsonl"
    other_tools = write_lines(tmp_path / "tools2.json", [TOOL])
    arguments = ["--tools", TOOLS, "--input", source, "--output", str(output)]
    assert fake.run(*arguments).exit_code == 0
    before = output.read_bytes()
    change = [other_tools if part == "TOOLS2" else part for part in change]
    assert_error(fake.run(*arguments, *change), str(output), message, "another --output")
    assert output.read_bytes() == before
    # What doesn't change results may change.
    assert fake.run(*arguments, "--context", "4096", "--threads", "1").exit_code == 0


def test_failed_results_bind_to_no_settings(fake: FakeSearcher, tmp_path: Path) -> None:
    def fail(question: str) -> SearchResult:
        raise ContextError("too long")

    fake.reply = fail
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    output = tmp_path / "out.jsonl"
    arguments = ["--tools", TOOLS, "--input", source, "--output", str(output)]
    assert fake.run(*arguments).exit_code == 1
    fake.reply = echo
    assert fake.run(*arguments, "--beams", "3").exit_code == 0
    assert list(asked_of(read_lines(output))) == ["p0", "p1"]
    assert_error(fake.run(*arguments), "beams was 3, is 2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "p0", "calls": []}\n', "is missing"),
        ('{"id": "p0", "calls": []}\nnonsense\n', "line 2 is not a result"),
        ('{"id": "p0", "query": "q"}\n', "line 1 is not a result"),
        ('[{"name": "a tool"}]', "something else than results"),
        ('{"id": "p0", "query": "q"}', "something else than results"),
    ],
)
def test_files_that_are_no_output_are_left_alone(
    content: str, message: str, fake: FakeSearcher, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text(content)
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    assert_error(fake.run("--tools", TOOLS, "--input", source, "--output", str(output)), message)
    assert output.read_text() == content


def test_a_failed_start_leaves_nothing(tmp_path: Path, gguf: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    folder = tmp_path / "results"
    folder.mkdir()
    arguments = ["--tools", TOOLS, "--input", source, "--output", str(folder / "out.jsonl")]
    assert_error(run(*arguments, "--model", gguf), "can't be loaded")
    assert list(folder.iterdir()) == []


def test_output_may_be_a_device(fake: FakeSearcher, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", *questions(2))
    result = fake.run("--tools", TOOLS, "--input", source, "--output", os.devnull)
    assert result.exit_code == 0
    assert "2 answered" in result.stderr


def test_ctrl_c_of_a_real_run(tiny_gguf: Path, small_tools: str, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", *questions(200))
    output = tmp_path / "out.jsonl"
    process = subprocess.Popen(
        [
            *COMMAND, "search", "--tools", small_tools, "--input", source, "--output", str(output),
            "--model", str(tiny_gguf), "--threads", "1", "--max-tokens", "40",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not output.exists() or output.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert re.fullmatch(r"stopped after \d+ of 200; the same command continues there\n", stderr), (
        stderr
    )
    assert len(read_lines(output)) >= 3


def test_a_closed_pipe_is_quiet(tiny_gguf: Path, small_tools: str, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", *questions(20))
    process = subprocess.Popen(
        [
            *COMMAND, "search", "--tools", small_tools, "--input", source,
            "--model", str(tiny_gguf), "--max-tokens", "10",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


if __name__ == "__main__":
    HELP_PAGE.write_text(with_current_help(HELP_PAGE.read_text()))
    print(f"{HELP_PAGE}: written")
