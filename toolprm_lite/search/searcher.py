"""The public search: a model, held open, that answers questions with tool calls."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from toolprm_lite.backends.base import Backend, ModelInfo
from toolprm_lite.backends.open import BackendName, open_backend
from toolprm_lite.errors import ConfigError
from toolprm_lite.files import FileState, state_of
from toolprm_lite.formats import CallFormat
from toolprm_lite.instruction import PromptStyle, own_style
from toolprm_lite.models import EMBEDDED
from toolprm_lite.reward.base import FEATURES, Reward, RewardChoice
from toolprm_lite.reward.head import Head
from toolprm_lite.reward.head_file import load_head
from toolprm_lite.reward.policy import FunctionReward, PolicyReward
from toolprm_lite.reward.shipped import shipped_head
from toolprm_lite.search import clock
from toolprm_lite.search.background import in_thread
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.engine import Engine
from toolprm_lite.search.events import Event
from toolprm_lite.search.job import Job
from toolprm_lite.search.limits import Limits
from toolprm_lite.search.request import (
    Messages,
    RequestsFailed,
    SearchRequest,
    Tools,
    as_request,
    settings,
)
from toolprm_lite.search.result import SearchResult
from toolprm_lite.tools import Tool


class Searcher:
    """Searches for tool calls with one model. Safe to share between threads: calls queue."""

    def __init__(self, backend: Backend, name: str | None = None) -> None:
        """Search with `backend`, which the searcher owns from now on."""
        self.engine = Engine(backend, name or backend.info.name)
        self._heads: dict[tuple[str, str], tuple[FileState | None, Head | None]] = {}

    @property
    def model(self) -> str:
        """The model's name, as results have it."""
        return self.engine.model

    @classmethod
    def from_model(
        cls,
        model: str | os.PathLike[str] | object | None = None,
        *,
        tokenizer: object | None = None,
        adapter: str | os.PathLike[str] | None = "auto",
        backend: BackendName = "auto",
        gpu_layers: int = 0,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        context: int | None = None,
        prompt_cache: int = 256,
        verbose: bool = False,
    ) -> Searcher:
        """Open a model.

        Args:
            model: path of a GGUF file or of a transformers folder, a hub id ("organisation/name"),
                the embedded model's name, or a transformers model that the application holds
                already, with its `tokenizer`; None is the embedded model.
            tokenizer: of a model that is given as an object.
            adapter: file of low-rank changes of the weights (LoRA), as `toolprm-lite tune` writes
                it: GGUF, or for torch also safetensors. None or "none" is the model as it is;
                "auto" is the one that ships for the embedded model, if any.
            backend: `auto` chooses by the model: llamacpp for GGUF files, torch for all else.
                `torch` reads GGUF files, too: unpacked, in full precision.
            gpu_layers: blocks to keep on a GPU, -1 all, at most 4096 (llamacpp).
            device: auto, cpu, cuda, cuda:1, mps (torch).
            dtype: auto, float32, bfloat16, float16 (torch); see docs/backends.md.
            threads: at most one for each processor; None is one for each physical core (llamacpp),
                or as torch is set.
            context: cells for prompts and all branches, 32 to 2^24; None is the model's own, at
                most 8192. One that needs more memory than is available is refused.
            prompt_cache: MiB for the states of prompts that no search uses, so that questions on
                several lists of tools prefill only what is new; the least recently used go first.
                In main memory, or for torch in the device's. 0 keeps the last prompt only.
            verbose: let llama.cpp's own log through.

        Raises:
            ModelError: a file is missing or broken, is not a model or not its adapter, or can't be
                driven, or does not fit into memory.
            ConfigError: a setting that is out of its range, or doesn't fit the model.
        """
        opened = open_backend(
            model,
            tokenizer=tokenizer,
            adapter=adapter,
            backend=backend,
            gpu_layers=gpu_layers,
            device=device,
            dtype=dtype,
            threads=threads,
            context=context,
            prompt_cache=prompt_cache,
            verbose=verbose,
        )
        path = isinstance(model, (str, os.PathLike))
        embedded = model is None or (path and str(model) == EMBEDDED)
        return cls(opened, EMBEDDED if embedded else None)

    def search(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> SearchResult:
        """Answer a conversation with tool calls.

        Args:
            messages: a question, or messages with `role` and `content`; assistants' `tool_calls`
                and tools' answers may be among them.
            tools: `Tool`s, or definitions in any form that `Tool.from_dict` understands.
            config: the settings; None is `SearchConfig()`.
            reward: `auto` (the head that ships for this model, else the policy's own probability),
                `policy`, a head's file, a `Reward`, or a function from a list of `CandidateStep` to
                as many numbers in 0 .. 1.
            cancel: once another thread sets it no model step begins, nor does the search wait for
                the model any longer; what there is becomes the answer, as at a deadline.

        Raises:
            ToolprmError: of the kind that says what was wrong with the input.
        """
        config = settings(config)
        limits = Limits.of(config, cancel)
        return self._answer(SearchRequest(messages, tools, config), reward, limits)

    def search_many(
        self,
        requests: Iterable[SearchRequest | tuple[Messages, Tools]],
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> list[SearchResult]:
        """Answer several conversations, their rows together in each model step.

        As many are searched at once as the context has cells for; the others wait for their turn,
        in their order. The answers are those of `search` with the same settings and seed, up to
        the rounding of kernels in batches of another shape. What a search had to give up for
        others, for want of cells, it decodes again, and counts again.

        Args:
            requests: each a `SearchRequest`, or a pair of messages and tools.
            config: the settings of requests that have none; None is `SearchConfig()`. The clock of
                a deadline begins with this call for all of them, also while they wait.
            reward: as in `search`, for all of them.
            cancel: ends all of them, each with the best response it has.

        Returns:
            The results, in the order of the requests.

        Raises:
            RequestsFailed: once all have ended, where some could not be answered; it names them,
                says why, and has the results of the others.
        """
        self.engine.lock.check()
        config = settings(config)
        called = clock.now()
        futures: list[Future[SearchResult]] = []
        jobs: list[Job] = []
        for request in requests:
            try:
                asked = as_request(request, config)
                limits = Limits.of(settings(asked.config), cancel, called=called)
                job = self.job(asked, reward, limits)
            except Exception as error:
                futures.append(Future())
                futures[-1].set_exception(error)
            else:
                futures.append(job.future)
                jobs.append(job)
        self.engine.run(jobs)
        errors = {n: future.exception() for n, future in enumerate(futures)}
        failed = {n: error for n, error in errors.items() if isinstance(error, Exception)}
        if failed:
            found = [None if n in failed else f.result() for n, f in enumerate(futures)]
            raise RequestsFailed(found, failed)
        return [future.result() for future in futures]

    def stream(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> Generator[Event, None, None]:
        """Search as `search` does, and report what happens: see `search.events`.

        The last event is the result, the same as that of `search`. The search runs while the
        iterator is read; from the first event on it holds the model, until it has been read to its
        end, is closed, or is forgotten. Other searches wait meanwhile. One that the reader waits
        for would never begin, so in the reader's thread or task, and in tasks that it started,
        it is an error. The clock of a deadline counts from this call.

        Arguments and errors are those of `search`; errors come with the first event.
        """
        config = settings(config)
        limits = Limits.of(config, cancel)
        return self._events(SearchRequest(messages, tools, config), reward, limits)

    async def asearch(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> SearchResult:
        """`search` for asyncio: it runs in a thread of its own and never blocks the event loop.

        Cancelling the task cancels the search and waits for its last model step, so that the model
        is free afterwards. Arguments and errors are those of `search`.
        """
        config, stop = settings(config), threading.Event()
        limits = Limits.of(config, cancel, stop)
        request = SearchRequest(messages, tools, config)
        found = in_thread(
            lambda: iter([self._answer(request, reward, limits)]),
            stop,
            partial(self.engine.lock.check, blocks=False),
        )
        async with aclosing(found):
            (result,) = [event async for event in found]
        return result

    def astream(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig | None = None,
        *,
        reward: RewardChoice = "auto",
        cancel: threading.Event | None = None,
    ) -> AsyncGenerator[Event, None]:
        """`stream` for asyncio: the search runs in a thread of its own, which does not wait for its
        reader.

        Cancelling the task or `aclose()` cancels the search and waits for its last model step.
        Leave a loop early only within `contextlib.aclosing`, or the search ends when the generator
        is collected.
        """
        config, stop = settings(config), threading.Event()
        limits = Limits.of(config, cancel, stop)
        request = SearchRequest(messages, tools, config)
        return in_thread(
            lambda: self._events(request, reward, limits),
            stop,
            partial(self.engine.lock.check, blocks=False),
        )

    def close(self) -> None:
        """Free the model. In a forked child this does nothing: it is the parent's."""
        if self.engine.lock.inherited:
            return
        with self.engine.alone() as backend:
            backend.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def record(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Iterable[Tool | Mapping[str, Any]],
        config: SearchConfig,
        reward: Reward,
    ) -> dict[str, Any]:
        """Draw whole responses, and the most likely one, and give back every step they decide.

        The search is that of `best-of-n`, whatever `config.strategy` says; the columns are those of
        `_core.StepTable`, and `stats` has its counts. Raises as `search` does.
        """
        self.engine.lock.check()
        request = SearchRequest(messages, tools, self._with_prompt(config, reward))
        job = self.engine.record_job(request, reward)
        self.engine.run([job])
        search, stats = job.future.result()
        table = search.step_table()
        return {
            "steps": table.steps,
            "previous": table.previous,
            "tokens": table.tokens,
            "draws": table.draws,
            "gaps": table.gaps,
            "greedy": table.greedy,
            "goes_on": table.continues,
            "features": table.inputs.features,
            "states": table.inputs.states,
            "trajectories": table.trajectories,
            "stats": stats,
        }

    def forget(self) -> None:
        """Forget the last prompt: what comes next does not depend on what came before."""
        with self.engine.alone() as backend:
            backend.clear()

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return self.engine.backend.info

    @cached_property
    def vocabulary_hash(self) -> str:
        """SHA-256 of the vocabulary's bytes, the same for every file of a model."""
        digest = hashlib.sha256()
        for token in self.engine.backend.token_bytes:
            digest.update(len(token).to_bytes(4, "little") + token)
        return digest.hexdigest()

    def reward(self, reward: RewardChoice, call_format: str = "auto") -> Reward:
        """What `search` would judge steps by; the arguments are as there.

        Raises `HeadError` for a head that can't be read, or that is another model's.
        """
        self.engine.lock.refuse_inherited()
        if isinstance(reward, (str, os.PathLike)):
            name = os.fspath(reward)
            if name == "policy":
                return PolicyReward()
            form = self.call_format(call_format).name
            state = None if name == "auto" else state_of(name)
            before, found = self._heads.get((name, form), (None, None))
            # A file that is gone since then doesn't matter: its head is here.
            if (name, form) not in self._heads or (state is not None and before != state):
                if name == "auto":
                    found = shipped_head(self.info, self.vocabulary_hash, form)
                else:
                    found = load_head(name)
                    found.check(self.info, self.vocabulary_hash, form, FEATURES)
                self._heads[name, form] = state, found
            return found or PolicyReward()
        if isinstance(reward, Head):
            form = self.call_format(call_format).name
            reward.check(self.info, self.vocabulary_hash, form, FEATURES)
        if isinstance(reward, Reward):
            return reward
        if callable(reward):
            return FunctionReward(reward)
        raise ConfigError(
            f"reward is a {type(reward).__name__}; give a name, a Reward or a function"
        )

    def call_format(self, name: str = "auto") -> CallFormat:
        """How the model writes calls; `name` as in `SearchConfig.call_format`."""
        return self.engine.preparer.call_format(name)

    def prompt_style(
        self, name: str = "auto", reward: Reward | None = None, call_format: str = "auto"
    ) -> PromptStyle:
        """How tools are explained; `name` and `call_format` as in `SearchConfig`.

        "auto" is what `reward` was fitted with, if it is a head, else the head that ships for the
        model, whether it is used or not: all rewards then judge the same prompts.
        """
        if name != "auto":
            return PromptStyle.parse(name)
        head = reward if isinstance(reward, Head) else self.reward("auto", call_format)
        if isinstance(head, Head):
            return PromptStyle.parse(head.card.prompt)
        return own_style(self.info.prompt)

    def job(
        self,
        request: SearchRequest,
        reward: RewardChoice,
        limits: Limits,
        *,
        sink: Callable[[Event], None] | None = None,
    ) -> Job:
        """A search for the engine to drive; `sink` gets its events.

        Raises what is wrong with the input as far as no model is needed to see it.
        """
        config = settings(request.config)
        scorer = self.reward(reward, config.call_format)
        request = replace(request, config=self._with_prompt(config, scorer))
        return self.engine.job(request, scorer, limits, sink=sink)

    def _with_prompt(self, config: SearchConfig, reward: Reward) -> SearchConfig:
        """The settings with a prompt style that is not "auto"."""
        style = self.prompt_style(config.prompt, reward, config.call_format)
        return replace(config, prompt=style.name)

    def _answer(self, request: SearchRequest, reward: RewardChoice, limits: Limits) -> SearchResult:
        self.engine.lock.check()
        job = self.job(request, reward, limits)
        self.engine.run([job])
        result: SearchResult = job.future.result()
        return result

    def _events(
        self, request: SearchRequest, reward: RewardChoice, limits: Limits
    ) -> Generator[Event, None, None]:
        """A search's events, the result last."""
        self.engine.lock.check()
        events: deque[Event] = deque()
        job = self.job(request, reward, limits, sink=events.append)
        yield from self.engine.stream(job, events)
        yield job.future.result()
