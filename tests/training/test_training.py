"""Fitting heads to sets whose truth is known, choosing among them, and the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("pyarrow")

import torch

from support.heads import CARD
from support.synthetic_set import FEATURES, MODEL, write_set
from toolprm_lite.cli.eval_reward import eval_reward
from toolprm_lite.cli.train import train
from toolprm_lite.errors import HeadError, TrainingError
from toolprm_lite.reward.base import STEP_KINDS
from toolprm_lite.reward.head import LABELS, FittedModel, Head, HeadCard, HeadWeights
from toolprm_lite.reward.head_file import load_head, save_head
from toolprm_lite.supervision.dataset import open_set
from toolprm_lite.training import metrics
from toolprm_lite.training.calibration import platt
from toolprm_lite.training.data import Examples, Supervision, open_supervision
from toolprm_lite.training.fit_head import HeadSettings, _Network, fit_head
from toolprm_lite.training.judging import judge_heads
from toolprm_lite.training.report import judge
from toolprm_lite.training.rivals import RIVAL_KINDS
from toolprm_lite.training.select import select

QUICK = HeadSettings(width=16, epochs=8, batch=128, learning_rate=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "one", problems=100)


@pytest.fixture(scope="module")
def data(folder: Path) -> Supervision:
    return open_supervision([folder])


def card_for(data: Supervision, layers: tuple[int, ...] = (1,), **changes: Any) -> HeadCard:
    return HeadCard(
        name="toolprm",
        model=data.model,
        call_format=data.call_format,
        layers=layers,
        pooled=False,
        features=data.features,
        **changes,
    )


def validation_auc(head: Head, examples: Examples, label: int = 1) -> float:
    rows = (examples.split == 1) & np.isin(
        examples.kinds, [STEP_KINDS.index(kind) for kind in head.card.kinds]
    )
    rewards = head.probabilities(
        examples.kinds[rows], examples.features[rows], examples.hidden[rows], LABELS[label]
    )
    return metrics.auc(rewards, examples.labels[rows, label])


# The set


def test_the_set_as_arrays(data: Supervision) -> None:
    examples = data.examples((1, 2), True)
    assert examples.hidden.shape == (data.steps, 48)
    assert examples.features.shape == (data.steps, len(FEATURES))
    assert data.model == FittedModel(**MODEL)
    trajectories = data.trajectories()
    ends = trajectories.last[trajectories.complete]
    assert (examples.kinds[ends] == STEP_KINDS.index("TOTAL_FINISH")).all()
    assert (examples.labels[ends, 0] == trajectories.right[trajectories.complete]).all()
    assert (trajectories.last[~trajectories.complete] == -1).all()
    assert (examples.problem[ends] == trajectories.problem[trajectories.complete]).all()
    assert data.counts(examples)["train"] == {"problems": 60, "steps": 60 * 26}


def test_two_sets_are_one(tmp_path: Path, folder: Path) -> None:
    other = write_set(tmp_path / "two", problems=20, first=90, seed=5)
    both = open_supervision([folder, other])
    first, second = open_supervision([folder]), open_supervision([other])
    examples = both.examples((1,), False)
    assert both.steps == first.steps + second.steps
    offset = first.steps
    alone = second.examples((1,), False)
    assert (examples.hidden[offset:] == alone.hidden).all()
    moved = np.where(alone.previous >= 0, alone.previous + offset, -1)
    assert (examples.previous[offset:] == moved).all()
    assert len(np.unique(examples.problem)) == 110  # ten are in both
    trajectories = both.trajectories()
    assert len(np.unique(trajectories.group)) == 120
    ends = trajectories.last[trajectories.complete]
    assert (examples.labels[ends, 0] == trajectories.right[trajectories.complete]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {**MODEL, "width": 12, "vocabulary": "ff"}}, "another model.*vocabulary is ff"),
        ({"model": {**MODEL, "architecture": "x"}}, "architecture is x, not mock"),
        ({"call_format": "hermes"}, "another call format"),
        ({"features": FEATURES[::-1]}, "another features"),
    ],
)
def test_sets_that_do_not_belong_together(
    tmp_path: Path, folder: Path, changes: dict[str, Any], message: str
) -> None:
    other = write_set(tmp_path / "other", problems=5, **changes)
    with pytest.raises(TrainingError, match=message):
        open_supervision([folder, other])


def test_a_problem_on_two_sides(tmp_path: Path, folder: Path) -> None:
    other = write_set(tmp_path / "other", problems=5, splits=("test",))
    with pytest.raises(TrainingError, match="problem-0 is in the test split, and in train"):
        open_supervision([folder, other])


def test_layers_that_were_not_collected(tmp_path: Path, folder: Path) -> None:
    other = write_set(tmp_path / "other", problems=5, first=200, layers=[2], pooled=False)
    both = open_supervision([folder, other])
    assert both.layers == (2,)
    assert not both.pooled
    with pytest.raises(TrainingError, match=r"no states of layer 1; there are those of 2"):
        both.examples((1,), False)
    with pytest.raises(TrainingError, match="no pooled states"):
        both.examples((2,), True)


# Fitting


def test_the_head_is_the_network() -> None:
    settings = HeadSettings(width=7, seed=1)
    torch.manual_seed(0)
    network = _Network(9, settings).eval()
    random = np.random.default_rng(0)
    for parameter in network.parameters():
        parameter.data = torch.from_numpy(random.standard_normal(parameter.shape)).float()
    calibration = np.zeros((2, 5, 2), np.float32)
    names = {name: value.detach().numpy() for name, value in network.named_parameters()}
    card = HeadCard(
        name="x",
        model=FittedModel("m", "a", 6, 2, "v"),
        call_format="json-list",
        layers=(1,),
        pooled=False,
        features=("a", "b", "c"),
    )
    head = Head(
        card, HeadWeights(np.zeros(9, "f"), np.ones(9, "f"), calibration=calibration, **names)
    )
    inputs = random.standard_normal((50, 9)).astype(np.float32)
    kinds = random.integers(0, 5, 50).astype(np.int8)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(kinds).long(), 5).float()
    with torch.no_grad():
        expected = network(torch.from_numpy(inputs), one_hot).numpy()
    np.testing.assert_allclose(
        head.logits(kinds, inputs[:, 6:], inputs[:, :6]), expected, rtol=1e-4, atol=1e-5
    )


def test_fit_finds_the_signal_and_nothing_in_noise(data: Supervision) -> None:
    known = data.examples((1,), False)
    head = fit_head(known, card_for(data), QUICK)
    assert validation_auc(head, known, 0) > 0.95
    assert validation_auc(head, known, 1) > 0.95
    noise = data.examples((2,), False)
    assert validation_auc(fit_head(noise, card_for(data, (2,)), QUICK), noise, 0) < 0.75
    rows = known.split == 2
    rewards = head.probabilities(known.kinds[rows], known.features[rows], known.hidden[rows])
    assert metrics.ece(rewards, known.labels[rows, 1]) < 0.1


def test_a_seed_gives_one_head(data: Supervision) -> None:
    examples = data.examples((1,), False)
    settings = replace(QUICK, epochs=2)
    state = torch.random.get_rng_state()
    heads = [fit_head(examples, card_for(data), replace(settings, seed=seed)) for seed in (3, 3, 4)]
    assert (torch.random.get_rng_state() == state).all()
    assert (heads[0].weights.weight == heads[1].weights.weight).all()
    assert heads[0].card == heads[1].card
    assert (heads[0].weights.weight != heads[2].weights.weight).any()


def test_training_never_looks_at_the_test_split(data: Supervision) -> None:
    examples = data.examples((1,), False)
    hidden, labels = examples.hidden.copy(), examples.labels.copy()
    hidden[examples.split == 2] = np.nan
    labels[examples.split == 2] ^= True
    settings = replace(QUICK, epochs=2)
    blind = fit_head(replace(examples, hidden=hidden, labels=labels), card_for(data), settings)
    head = fit_head(examples, card_for(data), settings)
    assert (blind.weights.readout == head.weights.readout).all()
    assert (blind.weights.calibration == head.weights.calibration).all()


def test_the_pairwise_loss_learns_too(data: Supervision) -> None:
    examples = data.examples((1,), False)
    head = fit_head(examples, card_for(data), replace(QUICK, rank_weight=1.0))
    assert validation_auc(head, examples) > 0.95


@pytest.mark.parametrize("rival", list(RIVAL_KINDS))
def test_each_kind_of_head_judges_its_steps(data: Supervision, rival: Any) -> None:
    examples = data.examples((1,), False)
    head = fit_head(examples, card_for(data, kinds=RIVAL_KINDS[rival]), replace(QUICK, epochs=3))
    rewards = head.probabilities(examples.kinds, examples.features, examples.hidden)
    untouched = {
        name for kind, name in enumerate(STEP_KINDS) if (rewards[examples.kinds == kind] == 1).all()
    }
    assert untouched == set(STEP_KINDS) - set(RIVAL_KINDS[rival])


def test_epochs_are_reported_and_stop_early(data: Supervision) -> None:
    seen: list[tuple[int, float]] = []
    settings = replace(QUICK, epochs=200, patience=2, learning_rate=0.05)
    head = fit_head(
        data.examples((2,), False),
        card_for(data, (2,)),
        settings,
        lambda epoch, loss: seen.append((epoch, loss)),
    )
    assert 3 <= len(seen) < 50
    best = min(seen, key=lambda entry: entry[1])
    assert len(seen) == best[0] + 2
    assert head.card.notes["epoch"] == best[0]


@pytest.mark.parametrize(("split", "name"), [(0, "train"), (1, "validation")])
def test_a_split_without_steps(data: Supervision, split: int, name: str) -> None:
    examples = data.examples((1,), False)
    empty = replace(examples, split=np.full_like(examples.split, 1 - split))
    with pytest.raises(TrainingError, match=f"steps of the {name} split"):
        fit_head(empty, card_for(data), QUICK)


def test_states_that_are_not_finite(data: Supervision) -> None:
    examples = data.examples((1,), False)
    hidden = examples.hidden.copy()
    hidden[0, 0] = np.inf
    with pytest.raises(TrainingError, match="not finite"):
        fit_head(replace(examples, hidden=hidden), card_for(data), QUICK)


def test_platt_recovers_a_known_line() -> None:
    random = np.random.default_rng(0)
    logits = (3 * random.standard_normal(20000)).astype(np.float32)
    labels = random.random(20000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))
    slope, offset = platt(logits, labels)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert offset == pytest.approx(-1, abs=0.06)


@pytest.mark.parametrize("label", [True, False])
def test_platt_of_one_label_stays_finite(label: bool) -> None:
    logits = np.linspace(-30, 30, 50, dtype=np.float32)
    slope, offset = platt(logits, np.full(50, label))
    assert slope > 0
    assert abs(offset) < 10
    assert platt(logits[:0], np.zeros(0, bool)) == (1, 0)


def test_platt_never_turns_the_order() -> None:
    logits = np.linspace(-3, 3, 50, dtype=np.float32)
    assert platt(logits, logits < 0)[0] > 0


# Choosing


def with_records(folder: Path, change: Any) -> Supervision:
    """The set with other records of its problems."""
    opened = open_set(folder)
    opened.problems = [  # type: ignore[misc]
        {**record, **change(number)} for number, record in enumerate(opened.problems)
    ]
    return Supervision([opened], ["set"])


def test_a_join_is_held_out_with_its_parts_sources(folder: Path) -> None:
    def change(number: int) -> dict[str, Any]:
        if number % 10:
            return {"source": "ab"[number % 2]}
        parts = ["a", "b"] if number % 20 else ["a", "a"]
        return {"source": "joined", "parts": parts}

    data = with_records(folder, change)
    sources = data.sources()
    assert set(sources) == {"a", "b"}
    joined = np.arange(100) % 10 == 0
    both = np.arange(100) % 20 == 10
    even = np.arange(100) % 2 == 0
    np.testing.assert_array_equal(sources["a"].whole, even & ~both)
    np.testing.assert_array_equal(sources["a"].touched, even)
    np.testing.assert_array_equal(sources["b"].whole, ~even)
    np.testing.assert_array_equal(sources["b"].touched, ~even | both)
    assert data.groups()["source joined"].sum() == joined.sum()
    fitted: list[str] = []
    select(
        data, "toolprm", replace(QUICK, epochs=1), layers=(1,),
        on_fit=lambda what, *_: fitted.append(what),
    )  # fmt: skip
    assert {what.split("without ")[1] for what in fitted if "without" in what} == {"a", "b"}


def test_joins_of_older_sets_are_known_by_the_ids_of_their_parts(folder: Path) -> None:
    ids = {0: "problem-1+problem-2", 3: "problem-1+problem-5", 4: "problem-1+gone"}
    data = with_records(
        folder,
        lambda n: {"source": "joined", "id": ids[n]} if n in ids else {"source": "ab"[n % 2]},
    )
    whole, touched = data.sources()["b"].whole, data.sources()["b"].touched
    assert (whole[3], touched[3]) == (True, True)
    assert (whole[0], touched[0]) == (False, True)
    # What is not known may be of any source.
    for found in data.sources().values():
        assert (found.whole[4], found.touched[4]) == (False, True)
    assert not data.sources()["a"].touched[3]


def test_select_reads_the_layer_that_knows(data: Supervision) -> None:
    seen: list[tuple[str, int, int]] = []
    found = select(
        data, "toolprm", replace(QUICK, epochs=4), on_fit=lambda *entry: seen.append(entry)
    )
    assert 1 in found.head.layers
    tried = {(entry.layers, entry.pooled): entry.loss for entry in reversed(found.tried)}
    assert set(tried) == {(group, pooled) for group in [(1,), (2,), (1, 2)] for pooled in (0, 1)}
    assert tried[(1,), False] < tried[(2,), False]
    assert [entry[1] for entry in seen] == list(range(len(seen)))
    assert seen[0][2] - len(seen) in (0, 1)  # the last fit may have been made before
    use = {"label": found.head.card.label, "aggregate": found.head.aggregate}
    best = max(use["selection"] for use in found.uses)

    def reach(use: dict[str, Any]) -> float:
        share = use["selection"]
        return float(share + np.sqrt(share * (1 - share) / use["problems"]))

    assert use.items() <= next(u for u in found.uses if reach(u) >= best).items()
    assert found.head.card.notes["data"]["validation"]["problems"] == 20


def test_members_are_averaged(data: Supervision) -> None:
    examples = data.examples((1,), False)
    card = HeadCard(
        name="x", model=data.model, call_format=data.call_format, layers=(1,), pooled=False,
        features=data.features,
    )  # fmt: skip
    together = fit_head(examples, card, replace(QUICK, members=3))
    alone = [fit_head(examples, card, replace(QUICK, seed=QUICK.seed + n)) for n in range(3)]
    rows = examples.kinds, examples.features, examples.hidden
    mean = np.mean([head.logits(*rows) for head in alone], axis=0)
    np.testing.assert_allclose(together.logits(*rows), mean, atol=1e-4)
    losses = [head.card.notes["validation_loss"] for head in alone]
    assert together.card.notes["validation_loss"] < np.mean(losses)


def test_a_blind_network_sees_no_states(data: Supervision) -> None:
    examples = data.examples((1,), True)
    card = replace(card_for(data), pooled=True)
    heads = [fit_head(examples, card, replace(QUICK, blind=share)) for share in (0.0, 1.0, 0.25)]
    rows = [examples.kinds, examples.features, examples.hidden]
    seen, blind, both = (head.logits(*rows) for head in heads)
    np.testing.assert_allclose(both, 0.75 * seen + 0.25 * blind, atol=1e-4)
    np.testing.assert_array_equal(blind, heads[1].logits(*rows[:2], examples.hidden + 1))
    assert np.abs(seen - heads[0].logits(*rows[:2], examples.hidden + 1)).max() > 0.1


class Turned(Supervision):
    """States say the opposite in the one source of what they say in the other; a feature helps."""

    def examples(self, layers: Any, pooled: bool) -> Examples:
        examples = super().examples(layers, pooled)
        made = self.groups()["source made"][examples.problem]
        random = np.random.default_rng(1)
        features = examples.features.copy()
        features[:, -1] = 4 * examples.labels[:, 1] + random.standard_normal(len(features))
        hidden = np.where(made[:, None], -examples.hidden, examples.hidden)
        hidden += 4 * random.standard_normal(hidden.shape)
        return replace(examples, hidden=hidden, features=features)


def test_states_that_mislead_on_other_sources_weigh_less(folder: Path, data: Supervision) -> None:
    settings = replace(QUICK, epochs=4)
    turned = Turned([open_set(folder)], ["turned"])
    found = select(turned, "toolprm", settings, layers=(1,), label="viable")
    tried = {(entry["blind"], entry["decline_odds"]) for entry in found.carried}
    assert {blind for blind, _ in tried} == {0.0, 0.25, 0.5}
    assert len(tried) == len(found.carried) > 9
    best = max(found.carried, key=lambda entry: entry["selection"])
    assert best["blind"] == found.tried[-1].settings.blind > 0
    assert set(best["sources"]) == {"made", "found"}
    straight = select(data, "toolprm", settings, layers=(1,), label="viable")
    assert straight.carried[0]["selection"] > found.carried[0]["selection"] + 0.2
    few = np.array([entry["problems"] for entry in straight.carried])
    assert (few == few[0]).all()
    assert few[0] >= 40


def test_one_source_holds_nothing_out(tmp_path: Path) -> None:
    path = write_set(tmp_path / "one", problems=40)
    lines = [json.loads(line) for line in (path / "problems.jsonl").read_text().splitlines()]
    text = "".join(f"{json.dumps({**line, 'source': 'made'})}\n" for line in lines)
    (path / "problems.jsonl").write_text(text)
    found = select(open_supervision([path]), "orm", replace(QUICK, epochs=2), layers=(1,))
    assert found.carried == []
    assert {entry.settings.blind for entry in found.tried} == {0.0}


def test_select_with_given_settings(data: Supervision) -> None:
    found = select(data, "orm", replace(QUICK, epochs=2), layers=(2, 1), label="local")
    assert found.head.layers == (2, 1)
    assert found.head.card.label == "local"
    assert found.head.card.kinds == ("TOTAL_FINISH",)
    assert {entry.layers for entry in found.tried} == {(2, 1)}


def test_judge_against_loops(data: Supervision) -> None:
    examples = data.examples((1,), False)
    head = fit_head(examples, card_for(data, aggregate="min"), replace(QUICK, epochs=2))
    trajectories = data.trajectories()
    rows, chosen = examples.split == 2, trajectories.split == 2
    groups = data.groups()
    report = judge(head, examples, trajectories, rows, chosen, groups)
    json.dumps(report, allow_nan=False)
    sizes = {name: report["groups"][name]["steps"]["steps"] for name in report["groups"]}
    everything = report["steps"]["viable"]["all"]["steps"]
    for parts in (("masked", "not masked"), ("to decline", "one call", "several calls")):
        assert sum(sizes.get(name, 0) for name in parts) == everything
        members = sum(groups[name].astype(int) for name in parts)
        assert members.tolist() == [1] * len(groups["masked"])
    rewards = head.probabilities(examples.kinds, examples.features, examples.hidden)
    hits, picked, mixed = [], [], []
    for group in np.unique(trajectories.group[chosen]):
        best: tuple[float, bool] | None = None
        kinds = set()
        for at in np.flatnonzero((trajectories.group == group) & trajectories.complete):
            chain, step = [], int(trajectories.last[at])
            while step >= 0:
                chain.append(float(rewards[step]))
                step = int(examples.previous[step])
            right = bool(trajectories.right[at])
            hits.append((min(chain) >= 0.5) == right)
            kinds.add(right)
            if best is None or min(chain) > best[0]:
                best = (min(chain), right)
        assert best is not None
        picked.append(best[1])
        mixed.append(len(kinds) == 2)
    whole = report["selection"]["all"]
    assert report["trajectories"]["min"]["accuracy"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert whole["all"]["picked"] == pytest.approx(np.mean(picked), abs=1e-6)
    assert whole["mixed"]["picked"] == pytest.approx(np.mean(np.array(picked)[mixed]), abs=1e-6)
    low, high = whole["mixed"]["interval"]
    assert low <= whole["mixed"]["picked"] <= high
    assert report["steps"]["viable"]["all"]["steps"] == rows.sum()
    assert report["selection_by_policy"]["mixed"]["oracle"] == 1


def test_a_head_of_fewer_features_is_judged_by_name(folder: Path, tmp_path: Path) -> None:
    def made(**changes: Any) -> Path:
        card = replace(CARD, model=FittedModel(**MODEL), layers=(1,), pooled=False, **changes)
        inputs = card.hidden_width + len(card.features)
        random = np.random.default_rng(3)
        shapes = [(inputs,), (4, inputs), (5, 4), (2, 5, 4), (2, 5), (2, 5, 2)]
        shift, *others = (random.normal(size=shape).astype(np.float32) for shape in shapes)
        head = Head(card, HeadWeights(shift, np.ones(inputs, np.float32), *others))
        path = tmp_path / f"{len(card.features)}.safetensors"
        save_head(path, head)
        return path

    some = ("found", "logprob_min")  # in another order than the set's
    path = made(features=some)
    report = judge_heads([folder], [path], "all")["heads"][0]
    data = open_supervision([folder])
    examples = data.examples((1,), False)
    places = [data.features.index(name) for name in some]
    chosen = replace(examples, features=examples.features[:, places])
    trajectories = data.trajectories()
    rows, all_of = np.ones(len(examples.kinds), bool), np.ones(len(trajectories.last), bool)
    expected = judge(load_head(path), chosen, trajectories, rows, all_of, data.groups())
    assert report["steps"] == expected["steps"]
    with pytest.raises(HeadError, match=r"features that .* does not have: missing"):
        judge_heads([folder], [made(features=(*some, "missing"))])


# The commands


def run(command: Any, *arguments: object) -> Result:
    # click keeps a command's first names of --help; `main` has these.
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(command, given, help_option_names=["-h", "--help"])


@pytest.fixture(scope="module")
def heads(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("heads") / "new"
    about = output.parent / "about.txt"
    about.write_text("Made up, Apache-2.0.\n")
    arguments = ("--output", output, "--rival", "all", "--layers", "1", "--epochs", 2)
    result = run(train, folder, *arguments, "--about", about)
    assert result.exit_code == 0, result.output
    for name in RIVAL_KINDS:
        assert name in result.output
    return output


def test_train_writes_heads(heads: Path, folder: Path) -> None:
    names = sorted(path.name for path in heads.iterdir())
    assert names == ["c-prm.safetensors", "orm.safetensors", "toolprm.safetensors", "train.json"]
    head = load_head(heads / "c-prm.safetensors")
    assert head.card.kinds == RIVAL_KINDS["c-prm"]
    assert head.card.notes["data"]["sets"] == [folder.name]
    assert str(folder.parent) not in json.dumps(dict(head.card.notes))
    assert head.card.notes["about"] == "Made up, Apache-2.0."
    scores = head.card.notes["scores"]
    report = json.loads((heads / "train.json").read_text())
    assert len(report["validation"]) == 3
    reported = report["validation"][1]["steps"][head.card.label]["FUNC_NAME"]
    assert scores["validation"]["steps"]["FUNC_NAME"]["auc"] == reported["auc"]
    assert set(scores["test"]["steps"]) == {"all", *head.card.kinds}
    assert scores["test"]["responses"]["problems"] == 20
    assert report["chosen_from"]["orm"]["tried"]


def test_train_gives_the_same_bytes_again(heads: Path, folder: Path, tmp_path: Path) -> None:
    result = run(
        train, folder, "--output", tmp_path, "--rival", "orm", "--layers", "1", "--epochs", 2,
        "--about", heads.parent / "about.txt",
    )  # fmt: skip
    assert result.exit_code == 0
    name = "orm.safetensors"
    assert (tmp_path / name).read_bytes() == (heads / name).read_bytes()


@pytest.mark.parametrize("split", ["test", "validation", "train", "all"])
def test_eval_reward(heads: Path, folder: Path, tmp_path: Path, split: str) -> None:
    files = [part for name in RIVAL_KINDS for part in ("--head", heads / f"{name}.safetensors")]
    result = run(eval_reward, folder, *files, "--split", split, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    for word in (*RIVAL_KINDS, "greedy", "any is right", "own probability"):
        assert word in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    problems = {"test": 20, "validation": 20, "train": 60, "all": 100}[split]
    assert report["heads"][0]["selection"]["all"]["all"]["problems"] == problems
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_eval_reward_as_json(heads: Path, folder: Path) -> None:
    result = run(eval_reward, folder, "--head", heads / "orm.safetensors", "--json")
    report = json.loads(result.output)
    assert list(report["heads"][0]["steps"]["viable"]) == ["all", "TOTAL_FINISH"]


def test_eval_reward_of_another_model(heads: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", problems=5, model={**MODEL, "layers": 9})
    result = run(eval_reward, other, "--head", heads / "orm.safetensors")
    assert isinstance(result.exception, HeadError)
    assert "the head's model is not that of" in str(result.exception)


def test_a_split_without_problems(heads: Path, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", problems=4, splits=("train",))
    result = run(eval_reward, other, "--head", heads / "orm.safetensors")
    assert isinstance(result.exception, TrainingError)
    assert "no problems of the test split" in str(result.exception)
    result = run(train, other, "--output", tmp_path / "heads", "--epochs", 1)
    assert isinstance(result.exception, TrainingError)
    assert "steps of the validation split" in str(result.exception)


@pytest.mark.parametrize("layers", ["x", "", "1,1", "1,,2"])
def test_layers_that_are_none(folder: Path, tmp_path: Path, layers: str) -> None:
    result = run(train, folder, "--output", tmp_path, "--layers", layers)
    assert result.exit_code == 2
    assert "--layers" in result.output


def test_a_layer_that_was_not_collected(folder: Path, tmp_path: Path) -> None:
    result = run(train, folder, "--output", tmp_path, "--layers", "7")
    assert isinstance(result.exception, TrainingError)
    assert "no states of layer 7" in str(result.exception)


def test_a_saved_head_is_the_fitted_one(data: Supervision, tmp_path: Path) -> None:
    examples = data.examples((1,), False)
    head = fit_head(examples, card_for(data), replace(QUICK, epochs=1))
    save_head(tmp_path / "head.safetensors", head)
    loaded = load_head(tmp_path / "head.safetensors")
    steps = (examples.kinds, examples.features, examples.hidden)
    assert (loaded.probabilities(*steps) == head.probabilities(*steps)).all()
    assert loaded.card == head.card
