"""The paper's own form of the reward model: a second language model that answers + or -.

It is here for comparison. It reads the request once more and every candidate's response; a head
reads states that the policy has computed anyway.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolprm_lite.backends.base import (
    Backend,
    Batch,
    Float32Array,
    Int32Array,
    MaskArray,
    SequenceOp,
    check_finite,
    common_prefix,
)
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.backends.open import open_backend
from toolprm_lite.errors import ConfigError, ContextError, ModelError, NoRoom
from toolprm_lite.formats import JSON_LIST
from toolprm_lite.prompt import list_tools, mark, parse_messages, plain_messages, render_chat
from toolprm_lite.reward.aggregate import Aggregate
from toolprm_lite.reward.base import CandidateStep, StepBatch
from toolprm_lite.reward.head import sigmoid
from toolprm_lite.tools import Tool

QUESTIONS = {
    "FUNC_NAME": "Is this function's name right?",
    "ARG_VALUE": "Is this parameter's name, with its value, right?",
    "PARAM_FINISH": "Are all of this call's parameters there, and right?",
    "FUNC_FINISH": "Is this single call right?",
    "TOTAL_FINISH": "Is the whole list of calls right and complete (an empty list included)?",
}
"""What each kind of step is asked, as in the ToolPRM paper."""

_NAMED = ("FUNC_NAME", "ARG_VALUE")  # short steps, which the question repeats
_BATCH = 512  # tokens decoded at once, where more than one candidate is


@dataclass(slots=True)
class _Model:
    """The second model, which rewards of several requests share."""

    backend: Backend
    encoder: Encoder
    holder: GenerativeReward | None = None  # whose request it holds
    prefill_tokens: int = 0
    decode_tokens: int = 0


class GenerativeReward:
    """A second causal language model as the reward. It implements `RequestReward`.

    A step's reward is exp(s+) / (exp(s+) + exp(s-)), s+ and s- being the model's logits of the
    tokens "+" and "-" behind the request, the response up to the step's boundary, and a question.
    The request is prefilled once a search, and only as far as the last one differs; every step is
    decoded behind it.

    The backend must not be the searcher's own; this object owns it from now on. Not thread-safe: a
    searcher's lock guards it, so give each searcher its own.

    Raises `ModelError` where "+" or "-" is not one token of the model.
    """

    name = "generative"
    layers: tuple[int, ...] = ()
    pooled = False
    grounded = False
    calibrated = False
    # A response is no better than its worst step, and a product would favour short ones.
    aggregate: Aggregate = "min"

    def __init__(self, backend: Backend) -> None:
        encoder = Encoder(backend.token_bytes, backend.tokenize, backend.special_texts)
        self._model = _Model(backend, encoder)
        self._request = ""
        self._instruction = ""
        self._held: Int32Array | None = None
        try:
            self._plus, minus = self._labels()
        except BaseException:
            backend.close()
            raise
        self._mask: MaskArray = np.zeros((1, (backend.info.vocab_size + 31) // 32), np.uint32)
        for token in (self._plus, minus):
            self._mask[0, token // 32] |= np.uint32(1 << token % 32)

    @classmethod
    def open(
        cls, model: str | os.PathLike[str] | object | None = None, **options: Any
    ) -> GenerativeReward:
        """Open a model. `options` and errors are those of `Searcher.from_model`."""
        return cls(open_backend(model, **options))

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that the model has computed since it was opened."""
        return self._model.prefill_tokens

    @property
    def decode_tokens(self) -> int:
        """Tokens of steps that it has computed."""
        return self._model.decode_tokens

    @property
    def _name(self) -> str:
        return self._model.backend.info.name

    def close(self) -> None:
        """Free the model. Safe to call twice."""
        self._model.backend.close()

    def __enter__(self) -> GenerativeReward:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def for_request(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
    ) -> GenerativeReward:
        """This reward for the steps of responses to this request. Rewards of several requests share
        the model and may take turns.

        Raises `ProblemError` for messages that can't be read.
        """
        listing = list_tools(tools, self._model.backend.special_texts, self._template)
        bound = copy.copy(self)
        bound._instruction = (
            "You judge an assistant that answers requests by calling functions, or with an empty "
            "list of calls if no function fits. These are the functions, each with the JSON "
            f"Schema of its parameters:\n{listing}\n\n"
            "You are shown the conversation, what the assistant has written of its response so "
            "far, and a question about its last step. Answer + for yes and - for no."
        )
        request = "\n".join(
            f"{message['role']}: {message['content']}"
            for message in plain_messages(parse_messages(messages), JSON_LIST)
        )
        bound._request = self._untrusted(request)
        bound._held = None
        return bound

    def prompt(self, step: CandidateStep) -> str:
        """The text that the model answers for a step of the request: a chat, rendered."""
        return "".join(self._prompt(step))

    def _prompt(self, step: CandidateStep) -> tuple[str, ...]:
        """The same, in pieces; see `render_prompt`."""
        question = QUESTIONS[step.kind]
        if step.kind in _NAMED:
            question = f"{question} {self._untrusted(step.text)}"
        return self._ask(self._untrusted(step.response), question)

    def score(self, batch: StepBatch) -> Float32Array:
        """Rewards in 0 .. 1, float32 [steps].

        Raises `ContextError` where the model's context has no room for the request or a step,
        `ConfigError` before `for_request`.
        """
        if not self._instruction:
            raise ConfigError("a generative reward scores steps of a request; call for_request")
        texts = [self._prompt(step) for step in batch.candidates()]
        if not texts:
            return np.empty(0, np.float32)
        # Candidates that differ behind the boundary only have the same text.
        distinct = {text: self._tokenize(text) for text in texts}
        shared = self._hold(list(distinct.values()))
        rewards = self._answers([tokens[shared:] for tokens in distinct.values()], shared)
        known = dict(zip(distinct, rewards, strict=True))
        return np.array([known[text] for text in texts], np.float32)

    @property
    def _template(self) -> str | None:
        return self._model.backend.info.chat_template

    def _untrusted(self, text: str) -> str:
        marked: str = mark(text, self._model.backend.special_texts, self._template)
        return marked

    def _ask(self, response: str, question: str) -> tuple[str, ...]:
        # What steps have in common stands first: it is prefilled once.
        return self._chat(
            f"The conversation:\n{self._request}\n\n"
            f"The response so far:\n{response}\n\n{question}\nAnswer + or -."
        )

    def _chat(self, question: str) -> tuple[str, ...]:
        info = self._model.backend.info
        return tuple(
            render_chat(
                self._instruction,
                [{"role": "user", "content": question}],
                chat_template=info.chat_template,
                special=self._model.backend.special_texts,
                bos_token=info.bos_token,
                eos_token=info.eos_token,
            )
        )

    def _tokenize(self, pieces: Sequence[str]) -> Int32Array:
        return np.array(self._model.encoder.prompt(pieces), np.int32)

    def _labels(self) -> tuple[int, int]:
        """The tokens of + and - where the model begins its answer."""
        *first, last = self._chat("Answer + or -.")
        before = self._model.encoder.prompt([*first, last])
        labels = []
        for label in ("+", "-"):
            tokens = self._model.encoder.prompt([*first, last + label])
            if tokens[:-1] != before:
                raise ModelError(
                    f"{self._name} does not write {label!r} as one token, so it "
                    "can't judge steps by its logit; choose another model for the generative reward"
                )
            labels.append(tokens[-1])
        plus, minus = labels
        return plus, minus

    def _hold(self, prompts: list[Int32Array]) -> int:
        """Prefill a beginning that the request's prompts share; returns its length.

        Which tokens they share is found by tokenizing whole texts: a response's first byte may
        join a token of the request.
        """
        beginning = self._held
        if beginning is None:
            first, second = (self._tokenize(self._ask(response, "")) for response in ("[", "<"))
            beginning = first[: common_prefix(first, second)]
        shared = min(common_prefix(beginning, prompt) for prompt in prompts)
        if self._held is None or shared < len(self._held) or self._model.holder is not self:
            try:
                prefill = self._model.backend.prefill(beginning[:shared].tolist(), None, 1)
            except ContextError as error:
                raise ContextError(f"{self._name} as the judge: {error}") from None
            self._model.prefill_tokens += prefill.prefill_tokens
            self._model.holder = self
            self._held = beginning[:shared]
        return shared

    def _answers(self, rests: list[Int32Array], start: int) -> Float32Array:
        """Rewards of what stands behind the held beginning, float32 [rests], in waves."""
        most = self._model.backend.info.max_sequences
        budget = _BATCH
        rewards: list[Float32Array] = []
        done = 0
        while done < len(rests):
            wave = [rests[done]]
            count = len(wave[0])
            for rest in rests[done + 1 : done + most]:
                if count + len(rest) > budget:
                    break
                wave.append(rest)
                count += len(rest)
            try:
                rewards.append(self._decode(wave, start))
            except NoRoom as error:
                if len(wave) == 1:
                    raise ContextError(
                        f"{self._name} as the judge: a step of {count} tokens behind a request of "
                        f"{start}: {error}"
                    ) from None
                budget = count // 2
                continue
            self._model.decode_tokens += count
            done += len(wave)
        return np.concatenate(rewards)

    def _decode(self, wave: list[Int32Array], start: int) -> Float32Array:
        """Rewards of branches from the held beginning, float32 [branches]. Raises `NoRoom`."""
        lengths = [len(rest) for rest in wave]
        sequences = np.arange(1, len(wave) + 1, dtype=np.int32)
        ops = np.zeros((len(wave), 3), np.int32)
        ops[:, 0], ops[:, 2] = SequenceOp.FORK, sequences
        none = np.empty(0, np.int32)
        batch = Batch(
            ops=ops,
            tokens=np.concatenate(wave),
            positions=np.concatenate(
                [np.arange(start, start + length, dtype=np.int32) for length in lengths]
            ),
            sequences=np.repeat(sequences, lengths),
            logits_at=np.cumsum(lengths, dtype=np.int32) - 1,
            hidden_at=none,
        )
        drops = np.zeros((len(wave), 3), np.int32)
        drops[:, 0], drops[:, 1] = SequenceOp.DROP, sequences
        try:
            output = self._model.backend.decode(batch, np.tile(self._mask, (len(wave), 1)), 2)
        finally:
            self._model.backend.decode(Batch(drops, none, none, none, none, none), None, 1)
        check_finite(output)
        # Log-probabilities differ as logits do.
        margins = output.top_logprobs[:, 0] - output.top_logprobs[:, 1]
        return sigmoid(np.where(output.top_ids[:, 0] == self._plus, margins, -margins))
