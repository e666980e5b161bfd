"""The public search: a model, held open, that answers questions with tool calls."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeVar

from toolprm_lite._core import StepSearch
from toolprm_lite.backends.base import Backend, ModelInfo
from toolprm_lite.backends.open import BackendName, open_backend
from toolprm_lite.errors import ConfigError, ProblemError, RequestsFailed
from toolprm_lite.files import FileState, state_of
from toolprm_lite.formats import CallFormat
from toolprm_lite.models import EMBEDDED
from toolprm_lite.prompt import parse_messages
from toolprm_lite.reward.base import FEATURES, Reward, RewardFunction
from toolprm_lite.reward.head import Head, load_head
from toolprm_lite.reward.policy import FunctionReward, PolicyReward
from toolprm_lite.reward.shipped import shipped_head
from toolprm_lite.search import limits as outside
from toolprm_lite.search.background import in_thread
from toolprm_lite.search.config import SearchConfig
from toolprm_lite.search.events import Event, Listener
from toolprm_lite.search.limits import Limits, OwnCancel
from toolprm_lite.search.loop import Prepared, Timing, run
from toolprm_lite.search.model_lock import Hold, ModelLock
from toolprm_lite.search.outcome import (
    found_result,
    found_stats,
    judged_kinds,
    unsearched_result,
)
from toolprm_lite.search.prepare import Preparer
from toolprm_lite.search.requests import Answer, Messages, SearchRequest, Tools
from toolprm_lite.search.result import SearchResult, Stats, Stop
from toolprm_lite.search.scheduler import Ended, Job, Scheduler
from toolprm_lite.tools import Tool, parse_tools

RewardChoice: TypeAlias = str | os.PathLike[str] | Reward | RewardFunction
T = TypeVar("T")


class Searcher:
    """Searches for tool calls with one model. Safe to share between threads: calls queue."""

    def __init__(self, backend: Backend, name: str | None = None) -> None:
        """Search with `backend`, which the searcher owns from now on."""
        self.model = name or backend.info.name
        self._backend = backend
        self._preparer = Preparer(backend)
        self._lock = ModelLock()
        self._heads: dict[tuple[str, str], tuple[FileState | None, Head | None]] = {}

    @classmethod
    def from_model(
        cls,
        model: str | os.PathLike[str] | object | None = None,
        *,
        tokenizer: object | None = None,
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
            ModelError: the file is missing, is not a model, can't be driven, or does not fit.
            ConfigError: a setting that is out of its range, or doesn't fit the model.
        """
        opened = open_backend(
            model,
            tokenizer=tokenizer,
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
        config = _settings(config)
        limits = Limits.of(config, cancel)
        (result,) = self._events(messages, tools, config, reward, limits, listen=False)
        assert isinstance(result, SearchResult)
        return result

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
        self._lock.check()
        config = _settings(config)
        called = outside.clock()
        scheduler = Scheduler(self._backend)
        futures: list[Future[SearchResult]] = []
        for request in requests:
            try:
                job = self._job(_request(request, config), reward, cancel, called=called)
            except Exception as error:
                futures.append(Future())
                futures[-1].set_exception(error)
            else:
                futures.append(job.future)
                scheduler.add(job)
        self._serve(scheduler)
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
        """Search as `search` does, and tell what happens: see `search.events`.

        The last event is the result, the same as that of `search`. The search goes on while the
        iterator is read; from the first event on it holds the model, until it has been read to its
        end, is closed, or is forgotten. Other searches wait meanwhile. One that the reader waits
        for would never begin, so in the reader's thread or task, and in tasks that it started,
        it is an error. The clock of a deadline counts from this call.

        Arguments and errors are those of `search`; errors come with the first event.
        """
        config = _settings(config)
        limits = Limits.of(config, cancel)
        return self._events(messages, tools, config, reward, limits, listen=True)

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
        config, stop = _settings(config), threading.Event()
        limits = Limits.of(config, cancel, stop)
        found = in_thread(
            lambda: self._events(messages, tools, config, reward, limits, listen=False),
            stop,
            partial(self._lock.check, blocks=False),
        )
        async with aclosing(found):
            (result,) = [event async for event in found]
        assert isinstance(result, SearchResult)
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
        Leave a loop early only within `contextlib.aclosing`, or the search ends when Python likes.
        """
        config, stop = _settings(config), threading.Event()
        limits = Limits.of(config, cancel, stop)
        return in_thread(
            lambda: self._events(messages, tools, config, reward, limits, listen=True),
            stop,
            partial(self._lock.check, blocks=False),
        )

    def close(self) -> None:
        """Free the model. In a forked child this does nothing: it is the parent's."""
        if self._lock.inherited:
            return
        with self._alone():
            self._backend.close()

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

        The search is that of `best-of-n`, whatever `config.strategy` says; see
        `_core.StepSearch.records`. `stats` has its counts besides. Raises as `search` does.
        """
        conversation = parse_messages(messages)
        known = _tools(tools)
        whole = replace(config, strategy="best-of-n", trace=True)
        with self._alone():
            events = self._run(conversation, known, whole, reward, Limits(), follow_argmax=True)
            search, stats, _ = _returned(events)
        table = search.step_table()
        return {
            "steps": table.steps,
            "previous": table.previous,
            "tokens": table.tokens,
            "draws": table.draws,
            "greedy": table.greedy,
            "goes_on": table.continues,
            "features": table.inputs.features,
            "states": table.inputs.states,
            "trajectories": table.trajectories,
            "stats": stats,
        }

    def forget(self) -> None:
        """Forget the last prompt: what comes next does not depend on what came before."""
        with self._alone():
            self._backend.clear()

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return self._backend.info

    @cached_property
    def vocabulary_hash(self) -> str:
        """SHA-256 of the vocabulary's bytes, the same for every file of a model."""
        digest = hashlib.sha256()
        for token in self._backend.token_bytes:
            digest.update(len(token).to_bytes(4, "little") + token)
        return digest.hexdigest()

    def reward(self, reward: RewardChoice, call_format: str = "auto") -> Reward:
        """What `search` would judge steps by; the arguments are as there.

        Raises `HeadError` for a head that can't be read, or that is another model's.
        """
        self._lock.refuse_inherited()
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
        return self._preparer.call_format(name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        hold = Hold()
        try:
            self._lock.acquire(hold, Limits())
            yield
        finally:
            self._lock.release(hold)

    def _events(
        self,
        messages: Messages,
        tools: Tools,
        config: SearchConfig,
        reward: RewardChoice,
        limits: Limits,
        listen: bool,
    ) -> Generator[Event, None, None]:
        """A search from its input to its result, the last event; without `listen` the only one."""
        self._lock.check()
        conversation = parse_messages(messages)
        known = _tools(tools)
        scorer = self.reward(reward, config.call_format)
        hold = Hold()
        try:
            stopped = self._lock.acquire(hold, limits)
            if stopped is not None:
                yield unsearched_result(config, scorer, self.model, known, stopped)
                return
            for event in self._search(conversation, known, config, scorer, limits, listen):
                yield event
                self._lock.mark()
        finally:
            self._lock.release(hold)

    def _search(
        self,
        messages: list[dict[str, Any]],
        tools: list[Tool],
        config: SearchConfig,
        reward: Reward,
        limits: Limits,
        listen: bool,
    ) -> Generator[Event, None, None]:
        started = outside.clock()
        if config.tool_choice == "none":
            yield unsearched_result(config, reward, self.model, tools, None)
            return
        search, stats, stopped = yield from self._run(
            messages, tools, config, reward, limits, listen
        )
        result = found_result(search, config, reward, self.model, stats, tools, stopped)
        stats.ms["total"] = 1e3 * (outside.clock() - started)
        yield result

    def _job(
        self,
        request: SearchRequest,
        reward: RewardChoice,
        *cancels: threading.Event | None,
        called: float | None = None,
    ) -> Job:
        """A search for a scheduler, `called` when the clock said so; None is now. Raises what is
        wrong with the input as far as no model is needed to see it."""
        config = _settings(request.config)
        limits = Limits.of(config, *cancels, called=called)
        own = tuple(map(OwnCancel, limits.cancels))
        limits = replace(limits, cancels=own)
        messages = parse_messages(request.messages)
        tools = _tools(request.tools)
        scorer = self.reward(reward, config.call_format)

        def conclude(ended: Ended) -> SearchResult:
            for cancelled in own:
                if cancelled.error is not None:
                    raise cancelled.error
            if ended.prepared is None:
                return unsearched_result(config, scorer, self.model, tools, ended.stopped)
            stats = found_stats(ended.prepared, ended.prefill, ended.timing)
            stats.ms["total"] = 1e3 * ended.seconds
            search = ended.prepared.search
            return found_result(search, config, scorer, self.model, stats, tools, ended.stopped)

        def prepare() -> Prepared | None:
            if config.tool_choice == "none":
                return None
            return self._preparer.prepare(messages, tools, config, scorer)

        job = Job(limits, prepare, conclude, Answer(self._lock))
        job.future.set_running_or_notify_cancel()  # it can't be cancelled but by its limits
        return job

    def _serve(
        self,
        scheduler: Scheduler,
        arrivals: Callable[[], list[Job]] = list,
        news: tuple[threading.Event, ...] = (),
    ) -> None:
        """Search, with the model in hand, until nothing is left and nothing arrives. `news` are set
        when something has arrived."""
        while True:
            for job in arrivals():
                scheduler.add(job)
            if not scheduler.busy:
                return
            hold = Hold()
            try:
                limits = scheduler.limits
                limits = replace(limits, cancels=(*limits.cancels, *news))
                if self._lock.acquire(hold, limits) is not None:
                    scheduler.stop_waiting()
                    continue
                while scheduler.busy:
                    scheduler.step()
                    for job in arrivals():
                        scheduler.add(job)
            except BaseException as error:
                scheduler.fail(error)
                if not isinstance(error, Exception):
                    raise
            finally:
                self._lock.release(hold)

    def _run(
        self,
        messages: list[dict[str, Any]],
        tools: list[Tool],
        config: SearchConfig,
        reward: Reward,
        limits: Limits,
        listen: bool = False,
        follow_argmax: bool | None = None,
    ) -> Generator[Event, None, tuple[StepSearch, Stats, Stop | None]]:
        prepared = self._preparer.prepare(messages, tools, config, reward, listen, follow_argmax)
        if reward.layers:  # else they stay as they are: another tap may cost the cached prompt
            self._backend.tap(reward.layers)
        timing = Timing()
        rounds = run(prepared, self._backend, limits, timing)
        if listen:
            listener = Listener(prepared.search, judged_kinds(reward))
            while True:
                try:
                    next(rounds)
                except StopIteration as end:
                    prefill, stopped = end.value
                    break
                yield from listener.news()
            yield from listener.news()
        else:
            prefill, stopped = _returned(rounds)
        return prepared.search, found_stats(prepared, prefill, timing), stopped


def _returned(events: Generator[object, None, T]) -> T:
    """What a generator returns when it is read to its end."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            value: T = end.value
            return value


def _settings(config: SearchConfig | None) -> SearchConfig:
    if config is not None and not isinstance(config, SearchConfig):
        raise ConfigError(f"config is a {type(config).__name__}; give a SearchConfig")
    return config or SearchConfig()


def _request(
    request: SearchRequest | tuple[Messages, Tools], config: SearchConfig
) -> SearchRequest:
    """A request of several, with its settings."""
    if not isinstance(request, SearchRequest):
        if not isinstance(request, Sequence) or len(request) not in (2, 3):
            raise ProblemError("a request is a SearchRequest, or a pair of messages and tools")
        request = SearchRequest(*request)
    return request if request.config is not None else replace(request, config=config)


def _tools(tools: object) -> list[Tool]:
    if isinstance(tools, Iterable) and not isinstance(tools, (str, bytes, Mapping)):
        tools = [tool.to_dict() if isinstance(tool, Tool) else tool for tool in tools]
    return parse_tools(tools, "tools")
