"""Collecting: what a set says of each response is true, and no interrupt changes it."""

from __future__ import annotations

import errno
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from support.mock_backend import EOG, VOCABULARY, WIDTH, MockBackend, state_of, tokenize
from toolprm_lite import store
from toolprm_lite._core import Segmenter
from toolprm_lite.errors import ConfigError, DatasetError
from toolprm_lite.grounded import make_grounding
from toolprm_lite.reward.base import CERTAINTY, FEATURES
from toolprm_lite.schema import closed_schema
from toolprm_lite.search.searcher import Searcher
from toolprm_lite.supervision import dataset
from toolprm_lite.supervision.annotation import annotate
from toolprm_lite.supervision.collect import Progress, collect
from toolprm_lite.supervision.collect_settings import CollectSettings
from toolprm_lite.supervision.dataset import SupervisionSet, open_set
from toolprm_lite.supervision.shards import middle_layers
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tools import Tool, parse_tools

WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"type": "number"},
        },
        "required": ["city"],
    },
}
CLOCK = {"name": "clock", "description": "The time", "parameters": {"type": "object"}}
TOOLS = parse_tools([WEATHER, CLOCK])


def weather(**arguments: Any) -> dict[str, Any]:
    return {"name": "weather", "arguments": arguments}


RESPONSES = {
    json.dumps([weather(city="Paris")]): 0.36,
    json.dumps([weather(city="Parma")]): 0.20,
    json.dumps([weather(city="Rome", unit="C")]): 0.12,
    json.dumps([weather(city="Rome"), weather(city="Paris", days=2)]): 0.10,
    json.dumps([weather(city="Paris", unit="F")]): 0.08,
    "[]": 0.08,
    '[{"name": "clock", "arguments": {}}]': 0.06,
}
# What a constraint doesn't allow, and only the model without one writes.
WILD = RESPONSES | {'[{"name": "nothing"}]': 0.2, json.dumps([weather(town="Rome")]): 0.2}
EXACT = CollectSettings(
    draws=24, temperature=1.0, layers=(2,), unconstrained_share=0.0, shard=1, max_tokens=200
)


def planned(
    number: int, *answers: dict[str, Any], tools: list[Tool] = TOOLS, **changes: Any
) -> Problem:
    values: dict[str, Any] = {
        "id": f"p{number}",
        "source": "made",
        "split": ("train", "validation", "test")[number % 3],
        "masked": False,
        "messages": [{"role": "user", "content": f"Weather {number} in Paris or Rome, please"}],
        "tools": tools,
        "answers": list(answers),
    }
    return Problem(**{**values, **changes})


def mock_searcher(responses: dict[str, float] = RESPONSES, **more: Any) -> Searcher:
    return Searcher(MockBackend(responses, **more))


def rows(table: Any) -> list[dict[str, Any]]:
    return list(table.to_pylist())


def chain_of(steps: list[dict[str, Any]], last: int) -> list[int]:
    chain = []
    while last >= 0:
        chain.append(last)
        assert steps[last]["previous"] < last
        last = steps[last]["previous"]
    return chain[::-1]


def segmented(text: str, tools: list[Tool]) -> list[Any]:
    segmenter = Segmenter(
        json.dumps([{"name": t.name, "parameters": closed_schema(t.parameters)} for t in tools])
    )
    return [*segmenter.feed(text.encode()), *segmenter.finish()]


def expected_tokens(path: list[int], boundary: int) -> int:
    """Tokens of the response up to the one that writes the byte before the boundary."""
    written = 0
    for number, token in enumerate(path, 1):
        written += len(VOCABULARY[token]) if token != EOG else 0
        if written >= boundary:
            return number
    raise AssertionError


def promises_more(path: list[int], step: Any) -> bool:
    """Whether the token that decides the step includes the comma after it."""
    if step.kind not in ("ARG_VALUE", "FUNC_FINISH"):
        return False
    tokens = path[: expected_tokens(path, step.boundary)]
    written = b"".join(VOCABULARY[token] for token in tokens if token != EOG)
    return written[step.end :].lstrip().startswith(b",")


def certainty(responses: dict[str, float], path: list[int], begin: int, end: int) -> list[float]:
    """The policy's log-probabilities, from the weights alone."""
    whole = {(*tokenize(text), EOG): weight for text, weight in responses.items()}
    logprobs, entropies = [], []
    for place in range(end):
        following: dict[int, float] = defaultdict(float)
        for other, weight in whole.items():
            if other[:place] == tuple(path[:place]) and len(other) > place:
                following[other[place]] += weight
        total = sum(following.values())
        shares = {token: weight / total for token, weight in following.items()}
        logprobs.append(np.log(shares[path[place]]))
        entropies.append(-sum(share * np.log(share) for share in shares.values()))
    own = logprobs[begin:end]
    if not own:
        return [0, 0, 0, 0, sum(logprobs), min(logprobs, default=0)]
    return [sum(own), min(own), sum(own) / len(own), entropies[begin], sum(logprobs), min(logprobs)]


@pytest.mark.parametrize("constrained", [True, False])
def test_every_column_is_right(constrained: bool, tmp_path: Path) -> None:
    responses = RESPONSES if constrained else WILD
    problems = [
        planned(0, weather(city="Paris")),
        planned(1, weather(city="Paris", days=2), weather(city="Rome")),
        planned(2),
        planned(3, weather(city="Rome", unit="C"), tools=TOOLS[::-1]),
    ]
    share = 0.0 if constrained else 1.0
    settings = replace(EXACT, unconstrained_share=share, draws=64)
    reports: list[Progress] = []
    collect(mock_searcher(responses), problems, tmp_path, settings, reports.append)
    found = open_set(tmp_path)
    assert found.manifest["complete"]
    assert found.manifest["features"] == list(FEATURES)
    assert found.problems == [problem.to_dict() for problem in problems]
    arrays = found.arrays((2,), True)
    assert arrays.hidden.shape == (len(found.steps), 2 * WIDTH)
    for name in ("kind", "local", "viable", "draws", "greedy", "constrained"):
        column = found.steps[name].to_pylist()
        array = getattr(arrays, "kinds" if name == "kind" else name)
        if name == "kind":
            column = [dataset.STEP_KINDS.index(kind) for kind in column]
        assert array.tolist() == column
    modes = {row["constrained"] for row in rows(found.steps)}
    assert modes == ({True} if constrained else {True, False})

    greedy_right = fates = 0
    for place, problem in enumerate(problems):
        ours = [
            (number, row)
            for number, row in enumerate(rows(found.steps))
            if row["problem"] == problem.id and row["constrained"] == constrained
        ]
        numbers, steps = [n for n, _ in ours], [row for _, row in ours]
        assert [row["step"] for row in steps] == list(range(len(steps)))
        trajectories = [
            row
            for row in rows(found.trajectories)
            if row["problem"] == problem.id and row["constrained"] == constrained
        ]
        assert sum(row["draws"] for row in trajectories) == settings.draws
        assert sum(row["greedy"] for row in trajectories) == 1
        assert len({row["text"] for row in trajectories}) == len(trajectories)
        draws: dict[int, int] = defaultdict(int)
        greedy: set[int] = set()
        grounding = make_grounding(problem.messages, problem.tools)
        for row in trajectories:
            chain = chain_of(steps, row["step"])
            for number in chain:
                draws[number] += row["draws"]
            if row["greedy"]:
                greedy |= set(chain)
                assert row["complete"]
                assert row["text"] == max(responses, key=lambda text: responses[text])
            if not row["complete"]:
                fates += 1
                assert not constrained
                assert not row["right"]
                assert any(text.startswith(row["text"]) for text in WILD.keys() - RESPONSES.keys())
                continue
            assert row["text"] in RESPONSES
            path = [*tokenize(row["text"]), EOG]
            expected = segmented(row["text"], problem.tools)
            assert len(expected) == len(chain)
            decided = [
                SimpleNamespace(
                    kind=step.kind,
                    call=step.call,
                    function=step.function,
                    argument=step.argument,
                    value=json.loads(row["text"].encode()[step.begin : step.end])
                    if step.kind == "ARG_VALUE"
                    else None,
                    previous=index - 1,
                    goes_on=promises_more(path, step),
                )
                for index, step in enumerate(expected)
            ]
            labels = annotate(decided, problem.answers, problem.tools, "exact")
            assert row["right"] == labels[-1].local
            calls = json.loads(row["text"])
            assert row["right"] == (sorted(map(str, calls)) == sorted(map(str, problem.answers)))
            greedy_right += row["greedy"] and row["right"]
            begin = 0
            for index, (number, step, label) in enumerate(
                zip(chain, expected, labels, strict=True)
            ):
                stored = steps[number]
                assert stored["kind"] == step.kind
                assert stored["call"] == (-1 if step.call is None else step.call)
                assert stored["function"] == step.function
                assert stored["argument"] == step.argument
                assert stored["boundary"] == step.boundary
                value = row["text"].encode()[step.begin : step.end].decode()
                assert stored["value"] == (value if step.kind == "ARG_VALUE" else None)
                assert stored["goes_on"] == decided[index].goes_on
                assert (stored["local"], stored["viable"]) == (label.local, label.viable)
                end = expected_tokens(path, step.boundary)
                assert stored["tokens"] == end
                state = state_of(path[:end])
                first = begin if end > begin else end - 1
                pooled = np.mean([state_of(path[: n + 1]) for n in range(first, end)], axis=0)
                hidden = arrays.hidden[numbers[number]]
                np.testing.assert_allclose(hidden[:WIDTH], state, rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(hidden[WIDTH:], pooled, rtol=1e-3, atol=1e-4)
                features = arrays.features[numbers[number]]
                np.testing.assert_array_equal(
                    features[len(CERTAINTY) :], grounding.features(expected[: index + 1])
                )
                if not constrained:  # otherwise some tokens are forced, and cost nothing
                    np.testing.assert_allclose(
                        features[: len(CERTAINTY)],
                        certainty(responses, path, begin, end),
                        atol=2e-5,
                    )
                begin = end
        assert [row["draws"] for row in steps] == [draws[n] for n in range(len(steps))]
        assert {row["step"] for row in steps if row["greedy"]} == greedy
        split = ("train", "validation", "test").index(problem.split)
        assert set(arrays.split[numbers]) == {split}
        assert set(arrays.problem[numbers]) == {place}
    if constrained:
        assert reports[-1] == Progress(4, 4, len(found.steps), greedy_right)
        assert fates == 0
    else:
        assert fates
    assert greedy_right == 1


def test_the_unconstrained_share_depends_on_seed_and_problem(tmp_path: Path) -> None:
    problems = [planned(n, weather(city="Paris")) for n in range(40)]
    settings = replace(EXACT, draws=2, unconstrained_share=0.5, shard=20)
    collect(mock_searcher(), problems, tmp_path, settings)
    table = open_set(tmp_path).trajectories
    twice = {row["problem"] for row in rows(table) if not row["constrained"]}
    assert {row["problem"] for row in rows(table) if row["constrained"]} == {
        problem.id for problem in problems
    }
    assert 8 < len(twice) < 32


def test_problems_that_share_tools_share_a_shard(tmp_path: Path) -> None:
    problems = [planned(n, tools=TOOLS if n < 5 else TOOLS[:1]) for n in range(8)]
    collect(mock_searcher(), problems, tmp_path, replace(EXACT, draws=1, shard=2))
    steps = open_set(tmp_path).steps
    shards = {row["problem"]: row["shard"] for row in rows(steps)}
    assert shards == {f"p{n}": int(n >= 5) for n in range(8)}


def test_a_prompt_too_long_is_skipped_and_named(tiny_gguf: Path, tmp_path: Path) -> None:
    long = [{"role": "user", "content": "paris " * 2000}]
    problems = [
        planned(0, weather(city="Paris"), tools=TOOLS[1:]),
        planned(1, tools=TOOLS[1:], messages=long),
        planned(2, tools=TOOLS[1:]),
    ]
    settings = CollectSettings(draws=2, max_tokens=12, unconstrained_share=1.0, shard=3)
    reports: list[Progress] = []
    with Searcher.from_model(tiny_gguf, threads=1) as searcher:
        collect(searcher, problems, tmp_path, settings, reports.append)
    (skipped,) = [report.skipped for report in reports if report.skipped]
    assert skipped.startswith("p1: ")
    assert "--context" in skipped
    found = open_set(tmp_path)
    assert found.manifest["complete"]
    assert found.manifest["layers"] == list(middle_layers(3))
    assert {row["problem"] for row in rows(found.trajectories)} == {"p0", "p2"}
    assert np.isfinite(found.states(found.state_names(found.manifest["layers"], True))).all()


def test_a_set_of_nothing_but_skipped_problems(tmp_path: Path) -> None:
    problems = [planned(n, tools=parse_tools([{**CLOCK, "name": f"clock{n}"}])) for n in range(2)]
    broken = [
        replace(problem, tools=[replace(problem.tools[0], parameters={"$ref": "#/nowhere"})])
        for problem in problems
    ]
    reports: list[Progress] = []
    collect(mock_searcher(), broken, tmp_path, EXACT, reports.append)
    assert [bool(report.skipped) for report in reports] == [False, True, True]
    found = open_set(tmp_path)
    assert len(found.steps) == len(found.trajectories) == 0
    assert found.arrays((2,), True).hidden.shape == (0, 2 * WIDTH)


def test_responses_cut_off_before_any_state(tiny_gguf: Path, tmp_path: Path) -> None:
    settings = CollectSettings(draws=2, max_tokens=12, unconstrained_share=0.0)
    problems = [planned(n, tools=TOOLS[1:]) for n in range(2)]
    with Searcher.from_model(tiny_gguf, threads=1) as searcher:
        collect(searcher, problems, tmp_path, settings)
    found = open_set(tmp_path)
    assert len(found.steps) == 0  # FUNC_NAME was decided, and its token never decoded
    assert [row["step"] for row in rows(found.trajectories)] == [-1, -1]
    assert found.arrays((1,), True).hidden.shape == (0, 128)


@pytest.mark.parametrize("layers", [(9,), (2, 2), (-1,)])
def test_layers_that_are_not_there(layers: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"different ones of 0 \.\. 4"):
        collect(mock_searcher(), [planned(0)], tmp_path / "set", replace(EXACT, layers=layers))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    "settings",
    [{"draws": 0}, {"temperature": -1.0}, {"top_k": 0}, {"call_format": "x"}, {"shard": 0},
     {"unconstrained_share": 1.5}, {"max_tokens": 0}],
)  # fmt: skip
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        CollectSettings(**settings)


# Going on


PROBLEMS = [planned(n, weather(city="Paris"), tools=TOOLS[: 1 + n % 2]) for n in range(4)]
QUICK = replace(EXACT, draws=4)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "set"
    collect(mock_searcher(), PROBLEMS, folder, QUICK)
    return folder


class Killed(BaseException):
    pass


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`after` more writes; then one dies, with or without its file in place."""
    plan: dict[str, Any] = {"after": 99, "done": False, "error": Killed()}
    real = dataset.replace_file

    def write(path: Path, data: bytes) -> None:
        if plan["after"] == 0:
            if plan["done"]:
                real(path, data)
            else:
                path.with_name(f"{path.name}.1.partial").write_bytes(data[: len(data) // 2])
            raise plan["error"]
        plan["after"] -= 1
        real(path, data)

    for module in (dataset, store):
        monkeypatch.setattr(module, "replace_file", write)
    return plan


@pytest.mark.parametrize("done", [False, True])
def test_a_death_at_any_write_changes_nothing(
    done: bool, whole: Path, tmp_path: Path, writes: dict[str, Any]
) -> None:
    number = 0
    while True:
        folder = tmp_path / str(number)
        writes.update(after=number, done=done)
        try:
            collect(mock_searcher(), PROBLEMS, folder, QUICK)
        except Killed:
            writes["after"] = 99
            collect(mock_searcher(), PROBLEMS, folder, QUICK)
            assert contents(folder) == contents(whole), number
        else:
            break
        number += 1
    assert number == 2 + 3 * 4 + 1  # manifest and problems, shards, the complete manifest


def test_a_limited_collection_continues(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for limit, shards in ((1, 1), (3, 3), (2, 3)):
        reports: list[Progress] = []
        collect(mock_searcher(), PROBLEMS, folder, QUICK, reports.append, limit=limit)
        assert reports[-1].done == reports[-1].total == limit
        found = open_set(folder)
        assert not found.manifest["complete"]
        assert found.manifest["problems"] == len(found.problems) == 4
        assert len(list(folder.glob("*.safetensors"))) == shards
    reports = []
    collect(mock_searcher(), PROBLEMS, folder, QUICK, reports.append)
    assert reports[0].done == 3
    assert contents(folder) == contents(whole)
    assert reports[-1].steps == len(open_set(folder).steps)
    # what was there counts like what is new
    fresh: list[Progress] = []
    collect(mock_searcher(), PROBLEMS, tmp_path / "fresh", QUICK, fresh.append)
    assert fresh[-1] == reports[-1]
    assert fresh[-1].right == 4


def test_a_shard_that_was_deleted_comes_back(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    collect(mock_searcher(), PROBLEMS, folder, QUICK)
    (folder / "shard-00001.parquet").unlink()
    collect(mock_searcher(), PROBLEMS, folder, QUICK)
    assert contents(folder) == contents(whole)


def other_model() -> Searcher:
    backend = MockBackend(RESPONSES)
    backend.info = replace(backend.info, name="another")
    return Searcher(backend)


@pytest.mark.parametrize(
    ("searcher", "problems", "settings", "message"),
    [
        (mock_searcher, PROBLEMS, {"draws": 5}, "draws 4 where 5 is asked for"),
        (mock_searcher, PROBLEMS, {"layers": (1,)}, r"layers \[2\] where \[1\] is asked for"),
        (mock_searcher, PROBLEMS[:2], {}, "problems 4 where 2 is asked for"),
        (mock_searcher, [*PROBLEMS[:3], planned(3)], {}, "set of other problems"),
        (mock_searcher, PROBLEMS[::-1], {}, "set of other problems"),
        (other_model, PROBLEMS, {}, "name 'mock' where 'another' is asked for"),
    ],
)
def test_a_set_of_something_else(
    searcher: Any, problems: Any, settings: Any, message: str, whole: Path
) -> None:
    before = contents(whole)
    with pytest.raises(DatasetError, match=message) as caught:
        collect(searcher(), problems, whole, replace(QUICK, **settings))
    assert str(whole) in str(caught.value)
    assert "another --output" in str(caught.value)
    assert contents(whole) == before


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(DatasetError, match="not empty, and not a supervision set"):
        collect(mock_searcher(), PROBLEMS, tmp_path, QUICK)
    assert contents(tmp_path) == {"thesis.txt": b"x"}


def test_a_full_disk_loses_no_shard(whole: Path, tmp_path: Path, writes: dict[str, Any]) -> None:
    folder = tmp_path / "set"
    writes.update(after=7, error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        collect(mock_searcher(), PROBLEMS, folder, QUICK)
    found = SupervisionSet(folder)
    assert len(set(found.steps["problem"].to_pylist())) == 1
    writes["after"] = 99
    collect(mock_searcher(), PROBLEMS, folder, QUICK)
    assert contents(folder) == contents(whole)


def test_possible_answers_count_by_the_rule_that_has_them(tmp_path: Path) -> None:
    possible = [{"weather": {"city": ["Parma", "PARIS"], "unit": ["F", ""]}}]
    problem = planned(0, weather(city="Parma"), possible=possible)
    right = {}
    for match in ("exact", "bfcl"):
        folder = tmp_path / match
        collect(mock_searcher(), [problem], folder, replace(EXACT, match=match, draws=64))
        trajectories = rows(open_set(folder).trajectories)
        right[match] = {row["text"].strip() for row in trajectories if row["right"]}
    parma, paris = (json.dumps([weather(city=city)]) for city in ("Parma", "Paris"))
    assert right["exact"] == {parma}
    assert right["bfcl"] == {parma, paris, json.dumps([weather(city="Paris", unit="F")])}
