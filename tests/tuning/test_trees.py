"""Token trees: losses and gradients are those of separate sequences."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from support.tiny_hf import tiny_hf  # noqa: E402
from toolprm_lite.errors import TrainingError  # noqa: E402
from toolprm_lite.tuning.lora import attach, parameters_of  # noqa: E402
from toolprm_lite.tuning.trees import Example, Tree, losses, make_trees, pack  # noqa: E402

# Longer than the sliding window of the models that have one.
SHARED = tuple(range(5, 45))
EXAMPLES = [
    Example("a", "s", (*SHARED, 50, 51), (60, 61, 62)),
    Example("b", "s", (*SHARED, 52), (63,)),
    Example("c", "t", (*SHARED, 50, 53, 54), (64, 65)),
]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text"])
def test_a_tree_computes_what_separate_sequences_do(kind: str) -> None:
    model = tiny_hf(kind)
    adapters = attach(model, 4)
    for number, adapter in enumerate(adapters.values()):
        torch.manual_seed(number)
        torch.nn.init.normal_(adapter.b, std=0.05)
    (tree,) = make_trees(EXAMPLES, 1000)
    assert (tree.shared, tree.targets) == (len(SHARED), 6)
    assert tree.tokens == len(SHARED) + (2 + 2) + (1 + 0) + (3 + 1)

    found, likeliest = losses(model, pack(tree))
    found.sum().backward()
    together = [parameter.grad.clone() for parameter in parameters_of(adapters)]
    model.zero_grad()
    alone = []
    for example in EXAMPLES:
        tokens = torch.tensor([[*example.prompt, *example.response]])
        logits = model(tokens).logits[0].log_softmax(-1)
        first = len(example.prompt) - 1
        for place, target in enumerate(example.response):
            alone.append(-logits[first + place, target])
    torch.stack(alone).sum().backward()
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-4, rtol=1e-4)
    for one, other in zip(together, parameters_of(adapters), strict=True):
        torch.testing.assert_close(one, other.grad, atol=1e-3, rtol=1e-3)
    assert likeliest.shape == found.shape


def test_trees_are_of_neighbours_that_share_enough() -> None:
    other = Example("x", "s", (1, 2, 3), (4,))
    trees = list(make_trees([*EXAMPLES, other], 1000))
    assert [len(tree.examples) for tree in trees] == [3, 1]
    assert trees[1].shared == 2  # all but the last token of its prompt


def test_a_tree_has_at_most_so_many_tokens() -> None:
    limit = Tree(tuple(EXAMPLES[:2]), len(SHARED)).tokens
    trees = list(make_trees(EXAMPLES, limit))
    assert [len(tree.examples) for tree in trees] == [2, 1]


def test_equal_prompts_share_all_but_their_last_token() -> None:
    twice = [EXAMPLES[0], Example("d", "s", EXAMPLES[0].prompt, (70, 71))]
    (tree,) = make_trees(twice, 1000)
    assert tree.shared == len(EXAMPLES[0].prompt) - 1
    packed = pack(tree)
    assert packed.targets.tolist() == [60, 61, 62, 70, 71]
    assert packed.owner.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("kind", ["gemma2", "phi3", "smollm3"])
def test_models_whose_adapters_were_not_tested_are_refused(kind: str) -> None:
    with pytest.raises(TrainingError, match=f"adapters of {kind} models can't be written"):
        attach(tiny_hf(kind, pad_token_id=0), 4)
