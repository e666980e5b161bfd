"""Cold start of the command line, and where it goes; then what a warm search takes.

    python benchmarks/bench_cli.py [--model model.gguf] [--json]

Every start is a new process with the files in the page cache. "python" is an interpreter that does
nothing, "imports" all that `search` imports before it opens a model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import spread, table

from toolprm_lite import SearchConfig, Searcher

QUESTION = "What will the weather be in Paris tomorrow, in celsius?"
TOOLS = [
    {
        "name": "get_weather",
        "description": "The weather forecast for a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "day": {"type": "string", "enum": ["today", "tomorrow"]},
            },
            "required": ["city"],
        },
    }
]
IMPORTS = "import toolprm_lite.cli.search, toolprm_lite.constraint, toolprm_lite.backends.llamacpp"


def seconds(command: list[str], repeats: int) -> dict[str, float]:
    taken = []
    for turn in range(repeats + 1):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if turn:
            taken.append(1e3 * (time.perf_counter() - begin))
    return spread(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="GGUF file or folder; the embedded model without it")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each (default 5)")
    options = parser.parse_args()
    more = ["--model", options.model] if options.model else []
    more += ["--threads", str(options.threads)] if options.threads else []

    found = {
        "python": seconds([sys.executable, "-c", ""], options.repeats),
        "imports": seconds([sys.executable, "-c", IMPORTS], options.repeats),
    }
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder) / "tools.json"
        tools.write_text(json.dumps(TOOLS))
        search = [sys.executable, "-m", "toolprm_lite", "search", "--json", "--tools", str(tools)]
        for strategy in ("greedy", "step-beam"):
            command = [*search, "--strategy", strategy, *more, QUESTION]
            found[f"search --json --strategy {strategy}"] = seconds(command, options.repeats)
    opened = []
    warm: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        begin = time.perf_counter()
        searcher = Searcher.from_model(options.model, threads=options.threads)
        opened.append(1e3 * (time.perf_counter() - begin))
        if len(opened) < options.repeats:
            searcher.close()
    found["opening the model, imports done"] = spread(opened)
    with searcher:
        for strategy in ("greedy", "step-beam"):
            config = SearchConfig(strategy=strategy, beams=2, expand=8)
            searcher.search(QUESTION, TOOLS, config)
            for cold in (True, False):
                name = f"{strategy}, {'prompt to be read' if cold else 'prompt in the cache'}"
                for _ in range(options.repeats):
                    if cold:
                        searcher.forget()
                    begin = time.perf_counter()
                    searcher.search(QUESTION, TOOLS, config)
                    warm.setdefault(name, []).append(1e3 * (time.perf_counter() - begin))
    found |= {name: spread(values) for name, values in warm.items()}
    print(json.dumps({"milliseconds": found}) if options.json else table(found, "ms"))


if __name__ == "__main__":
    main()
