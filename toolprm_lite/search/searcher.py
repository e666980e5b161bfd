"""The public search: a model, held open, that answers questions with tool calls."""

from __future__ import annotations

import hashlib
import json
import math
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
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from toolprm_lite._core import CallFormat as CoreFormat
from toolprm_lite._core import Grounding, StepSearch
from toolprm_lite._core import Vocabulary as CoreVocabulary
from toolprm_lite.backends.base import Backend, ModelInfo, Prefill
from toolprm_lite.backends.encoder import Encoder
from toolprm_lite.backends.open import BackendName, open_backend
from toolprm_lite.errors import ConfigError, RequestsFailed, ToolprmError, ToolsError
from toolprm_lite.formats import CallFormat, detect_format, get_format
from toolprm_lite.models import EMBEDDED
from toolprm_lite.prompt import parse_messages, render_prompt
from toolprm_lite.reward.base import (
    FEATURES,
    STEP_KINDS,
    RequestReward,
    Reward,
    RewardFunction,
)
from toolprm_lite.reward.generative import GenerativeReward
from toolprm_lite.reward.head import Head, load_head
from toolprm_lite.reward.policy import FunctionReward, PolicyReward
from toolprm_lite.reward.shipped import shipped_head
from toolprm_lite.search import limits as outside
from toolprm_lite.search.background import in_thread
from toolprm_lite.search.choices import Choices
from toolprm_lite.search.config import DOUBT, SearchConfig
from toolprm_lite.search.events import Event, Listener
from toolprm_lite.search.limits import STEP_TOKENS, Limits
from toolprm_lite.search.loop import Prepared, Timing, run
from toolprm_lite.search.requests import Messages, SearchRequest, Tools
from toolprm_lite.search.result import (
    Alternative,
    Candidate,
    SearchResult,
    Stats,
    Stop,
    call_confidence,
)
from toolprm_lite.search.scheduler import Ended, Job, Scheduler
from toolprm_lite.search.text import closed_calls, made_step, missing_parts
from toolprm_lite.tools import Tool, closed_schema, parse_tools

if TYPE_CHECKING:
    from toolprm_lite.constraint import Constraint

RewardChoice: TypeAlias = str | os.PathLike[str] | Reward | RewardFunction
T = TypeVar("T")


class Searcher:
    """Searches for tool calls with one model. Safe to share between threads: calls queue."""

    def __init__(self, backend: Backend, name: str | None = None) -> None:
        """Search with `backend`, which the searcher owns from now on."""
        self.model = name or backend.info.name
        self._backend = backend
        self._vocabulary = CoreVocabulary(
            list(backend.token_bytes), sorted(backend.info.eog_tokens)
        )
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # of a second model
        self._reader: int | None = None  # thread in whose hands a stream rests between two events
        self._heads: dict[tuple[str, str], Head | None] = {}
        self._judges: dict[str, GenerativeReward] = {}
        self._open: Callable[[str], Backend] = open_backend
        self._open_again: Callable[[], Backend] | None = None

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
            gpu_layers: blocks to keep on a GPU, -1 all (llamacpp).
            device: auto, cpu, cuda, cuda:1, mps (torch).
            dtype: auto, float32, bfloat16, float16 (torch); see docs/backends.md.
            threads: None is one for each physical core (llamacpp), or as torch is set.
            context: cells for prompts and all branches; None is the model's own, at most 8192.
            prompt_cache: MiB for the states of prompts that no search uses, so that questions on
                several lists of tools prefill only what is new; the least recently used go first.
                In main memory, or for torch in the device's. 0 keeps the last prompt only.
            verbose: let llama.cpp's own log through.

        Raises:
            ModelError: the file is missing, is not a model, or can't be driven.
            ConfigError: a setting that doesn't fit the model.
        """
        options = partial(
            open_backend,
            backend=backend,
            gpu_layers=gpu_layers,
            device=device,
            dtype=dtype,
            threads=threads,
            context=context,
            prompt_cache=prompt_cache,
            verbose=verbose,
        )
        again = partial(options, model, tokenizer=tokenizer)
        path = isinstance(model, (str, os.PathLike))
        embedded = model is None or (path and str(model) == EMBEDDED)
        searcher = cls(again(), EMBEDDED if embedded else None)
        searcher._open, searcher._open_again = options, again
        return searcher

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
                `policy`, a head's file, `generative:` and a second model's path or name (nothing:
                this model, opened again; see `GenerativeReward`), a `Reward`, or a function from
                a list of `CandidateStep` to as many numbers in 0 .. 1. `token-beam` has no use for
                it: its reward is always the policy's.
            cancel: once another thread sets it no model step begins, nor does the search wait for
                the model any longer; what there is becomes the answer, as at a deadline.

        Raises:
            ToolprmError: of the kind that says what was wrong with the input.
        """
        config = config or SearchConfig()
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
        config = config or SearchConfig()
        scheduler = Scheduler(self._backend)
        futures: list[Future[SearchResult]] = []
        for request in requests:
            if not isinstance(request, SearchRequest):
                request = SearchRequest(*request)
            if request.config is None:
                request = replace(request, config=config)
            try:
                job = self._job(request, reward, cancel)
            except ToolprmError as error:
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
        end, is closed, or is forgotten. Other searches wait meanwhile: in the same thread they
        would for ever, which is an error. The clock of a deadline counts from this call.

        Arguments and errors are those of `search`; errors come with the first event.
        """
        config = config or SearchConfig()
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
        config, stop = config or SearchConfig(), threading.Event()
        limits = Limits.of(config, cancel, stop)
        found = in_thread(
            lambda: self._events(messages, tools, config, reward, limits, listen=False), stop
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
        config, stop = config or SearchConfig(), threading.Event()
        limits = Limits.of(config, cancel, stop)
        return in_thread(
            lambda: self._events(messages, tools, config, reward, limits, listen=True), stop
        )

    def close(self) -> None:
        """Free the model, and the second ones that were opened as rewards."""
        with self._alone():
            self._backend.close()
            for judge in self._judges.values():
                judge.close()
            self._judges.clear()

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
        return {**search.records(), "stats": stats}

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

        Raises `HeadError` for a head that can't be read, or that is another model's, `ModelError`
        for a second model that can't be opened or can't judge.
        """
        if isinstance(reward, (str, os.PathLike)):
            name = os.fspath(reward)
            if name == "policy":
                return PolicyReward()
            kind, _, model = name.partition(":")
            if kind == "generative":
                return self._judge(model)
            form = self.call_format(call_format).name
            if (name, form) not in self._heads:
                if name == "auto":
                    found = shipped_head(self.info, self.vocabulary_hash, form)
                else:
                    found = load_head(name)
                    found.check(self.info, self.vocabulary_hash, form, FEATURES)
                self._heads[name, form] = found
            return self._heads[name, form] or PolicyReward()
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
        info = self._backend.info
        return detect_format(info.chat_template, info.name) if name == "auto" else get_format(name)

    @cached_property
    def _choices(self) -> Choices:
        backend = self._backend
        return Choices(backend.token_bytes, Encoder(backend.token_bytes, backend.tokenize))

    def _judge(self, model: str) -> GenerativeReward:
        """The second model of that name, which the searcher owns."""
        with self._opening:
            if model not in self._judges:
                if model:
                    backend = self._open(model)
                elif self._open_again is not None:
                    backend = self._open_again()
                else:
                    raise ConfigError(
                        "the searcher was given a backend, which it can't open again; name the "
                        "second model: generative:PATH"
                    )
                self._judges[model] = GenerativeReward(backend)
            return self._judges[model]

    def _acquire(self, limits: Limits) -> Stop | None:
        if self._lock.locked() and self._reader == threading.get_ident():
            raise ToolprmError(
                "a stream that this thread reads still holds the model; read it to its end, or "
                "close it first"
            )
        return limits.acquire(self._lock)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._acquire(Limits())
        try:
            yield
        finally:
            self._lock.release()

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
        conversation = parse_messages(messages)
        known = _tools(tools)
        scorer = self._scorer(config, reward)
        stopped = self._acquire(limits)
        if stopped is not None:
            yield self._unsearched(config, scorer, known, stopped)
            return
        try:
            for event in self._search(conversation, known, config, scorer, limits, listen):
                self._reader = threading.get_ident()
                yield event
                self._reader = None
        finally:
            self._reader = None
            self._lock.release()

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
            yield self._unsearched(config, reward, tools, None)
            return
        search, stats, stopped = yield from self._run(
            messages, tools, config, reward, limits, listen
        )
        result = _result(search, config, reward, self.model, stats, tools, stopped)
        stats.ms["total"] = 1e3 * (outside.clock() - started)
        yield result

    def _job(
        self, request: SearchRequest, reward: RewardChoice, cancel: threading.Event | None
    ) -> Job:
        """A search for a scheduler. Raises what is wrong with the input as far as no model is
        needed to see it."""
        config = request.config or SearchConfig()
        limits = Limits.of(config, cancel)
        messages = parse_messages(request.messages)
        tools = _tools(request.tools)
        scorer = self._scorer(config, reward)

        def conclude(ended: Ended) -> SearchResult:
            if ended.prepared is None:
                return self._unsearched(config, scorer, tools, ended.stopped)
            stats = _stats(ended.prepared, ended.prefill, ended.timing)
            stats.ms["total"] = 1e3 * ended.seconds
            search = ended.prepared.search
            return _result(search, config, scorer, self.model, stats, tools, ended.stopped)

        def prepare() -> Prepared | None:
            if config.tool_choice == "none":
                return None
            return self._prepare(messages, tools, config, scorer)

        job = Job(limits, prepare, conclude)
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
            limits = scheduler.limits
            if self._acquire(replace(limits, cancels=(*limits.cancels, *news))) is not None:
                scheduler.stop_waiting()
                continue
            try:
                while scheduler.busy:
                    scheduler.step()
                    for job in arrivals():
                        scheduler.add(job)
            except BaseException as error:
                scheduler.fail(error)
                if not isinstance(error, Exception):
                    raise
            finally:
                self._lock.release()

    def _scorer(self, config: SearchConfig, reward: RewardChoice) -> Reward:
        if config.strategy == "token-beam":
            return PolicyReward()
        return self.reward(reward, config.call_format)

    def _unsearched(
        self, config: SearchConfig, reward: Reward, tools: list[Tool], stopped: Stop | None
    ) -> SearchResult:
        """The result where nothing may be called (`stopped` is None), or no model step was made."""
        if stopped is None:
            return SearchResult(
                [], True, 1.0, None, [], [], self.model, reward.name, config.strategy, Stats()
            )
        return SearchResult(
            [], False, 0.0, None, [], [], self.model, reward.name, config.strategy, Stats(),
            stopped=stopped, missing=missing_parts([], tools),
            confidence=[] if reward.calibrated else None, trace=[] if config.trace else None,
        )  # fmt: skip

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
        prepared = self._prepare(messages, tools, config, reward, listen, follow_argmax)
        if reward.layers:  # else they stay as they are: another tap may cost the cached prompt
            self._backend.tap(reward.layers)
        timing = Timing()
        rounds = run(prepared, self._backend, limits, timing)
        if listen:
            listener = Listener(prepared.search, _judged_kinds(reward))
            prefill, stopped = yield from listener.follow(rounds)
        else:
            prefill, stopped = _returned(rounds)
        return prepared.search, _stats(prepared, prefill, timing), stopped

    def _prepare(
        self,
        messages: list[dict[str, Any]],
        tools: list[Tool],
        config: SearchConfig,
        reward: Reward,
        listen: bool = False,
        follow_argmax: bool | None = None,
    ) -> Prepared:
        choice = config.tool_choice
        allowed = tools
        if choice not in ("auto", "required"):
            allowed = [tool for tool in tools if tool.name == choice]
            if not allowed:
                names = ", ".join(tool.name for tool in tools)
                raise ConfigError(
                    f"tool_choice is {choice!r}; it must be auto, required, none, or one of {names}"
                )
        info = self._backend.info
        form = self.call_format(config.call_format)
        text = render_prompt(
            messages,
            tools,
            format=form,
            chat_template=info.chat_template,
            bos_token=info.bos_token,
            eos_token=info.eos_token,
            tool_choice=choice,
            parallel=config.parallel,
        )
        prompt = self._backend.tokenize(text)
        constraint = self._constraint(tools, form, config)
        if isinstance(reward, RequestReward):
            reward = reward.for_request(messages, tools)
        if isinstance(reward, Head) and config.decline_odds is not None:
            reward = reward.with_decline_odds(config.decline_odds)
        search = self._core_search(
            allowed, messages, form, config, reward, len(prompt), follow_argmax, listen
        )
        whole = config.strategy in ("majority", "best-of-n")
        draws = 1 if config.strategy == "greedy" else config.beams * config.expand
        return Prepared(
            search, reward, prompt, constraint,
            top_k=2 * config.beams if config.strategy == "token-beam" else config.top_k,
            working_set=max(64, 8 * (config.samples if whole else draws)),
            choices=self._choices if search.choice_width else None,
        )  # fmt: skip

    def _constraint(
        self, tools: list[Tool], form: CallFormat, config: SearchConfig
    ) -> Constraint | None:
        if config.constrain == "off":
            return None
        from toolprm_lite.constraint import Vocabulary

        return Vocabulary.of(self._backend).constraint(
            tools, form, tool_choice=config.tool_choice, parallel=config.parallel
        )

    def _core_search(
        self,
        tools: list[Tool],
        messages: list[dict[str, Any]],
        form: CallFormat,
        config: SearchConfig,
        reward: Reward,
        prompt_tokens: int,
        follow_argmax: bool | None,
        listen: bool,
    ) -> StepSearch:
        info = self._backend.info
        whole = config.strategy in ("majority", "best-of-n")
        greedy = config.strategy == "greedy"
        token_level = config.strategy == "token-beam"
        beams, expand = (1, 1) if greedy else (config.beams, config.expand)
        doubt = _threshold(config, reward) if config.strategy == "doubt" else 1.0
        # No doubt at all is greedy decoding, to the last token.
        chooses = config.strategy in ("step-beam", "doubt") and doubt > 0
        definitions = json.dumps(
            [{"name": tool.name, "parameters": closed_schema(tool.parameters)} for tool in tools]
        )
        if follow_argmax is None:
            follow_argmax = not (whole or greedy or token_level)
        grounding = None
        if reward.grounded:
            grounding = Grounding(
                json.dumps([tool.to_dict() for tool in tools]),
                [(message["role"], message.get("content") or "") for message in messages],
            )
        try:
            return StepSearch(
                tools_json=definitions,
                format=CoreFormat(
                    form.open_marker, form.close_marker, form.name_key, form.arguments_key
                ),
                vocabulary=self._vocabulary,
                sequences=info.max_sequences,
                cells=info.context,
                prompt_tokens=prompt_tokens,
                max_calls=None if config.parallel else 1,
                require_call=config.tool_choice != "auto",
                beams=config.samples if whole else beams,
                root_draws=config.samples if whole else 1 if token_level else beams * expand,
                beam_draws=1 if token_level else expand,
                follow_argmax=follow_argmax,
                whole_responses=whole,
                rank_by_draws=config.strategy == "majority",
                policy_rewards=isinstance(reward, PolicyReward),
                states_wanted=bool(reward.layers),
                pool_states=reward.pooled,
                grounding=grounding,
                aggregate=config.aggregate or reward.aggregate,
                policy_weight=config.policy_weight,
                way_floor=math.log(config.way_floor) if config.way_floor < 1 else 1.0,
                max_tokens=config.max_tokens,
                max_step_tokens=config.max_step_tokens,
                max_text_tokens=config.max_text_tokens,
                max_batch_tokens=512 if config.deadline_ms is None else STEP_TOKENS,
                temperature=0.0 if greedy else config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
                seed=config.seed,
                trace=config.trace or listen,
                token_level=token_level,
                doubt=doubt,
                choices=config.choices if chooses else 0,
                forks_within=info.forks_within,
            )
        except ValueError as error:
            raise ToolsError(f"tool {error}") from None


def _threshold(config: SearchConfig, reward: Reward) -> float:
    if config.doubt is not None:
        return config.doubt
    known = reward.card.doubt if isinstance(reward, Head) else None
    return DOUBT if known is None else known


def _stats(prepared: Prepared, prefill: Prefill, timing: Timing) -> Stats:
    """The counts of a search that has ended, and its times but for the total."""
    stats = Stats(
        prompt_tokens=len(prepared.prompt),
        prefill_tokens=prefill.prefill_tokens,
        reused_tokens=prefill.reused_tokens,
        steps=timing.steps,
        reward_calls=timing.reward_calls,
        **prepared.search.counts(),
    )
    stats.ms |= {
        "prefill": 1e3 * timing.prefill,
        "decode": 1e3 * timing.decode,
        "core": 1e3 * timing.core,
        "reward": 1e3 * timing.reward,
    }
    return stats


def _returned(events: Generator[object, None, T]) -> T:
    """What a generator returns when it is read to its end."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            value: T = end.value
            return value


def _judged_kinds(reward: Reward) -> Sequence[str]:
    """The kinds of step whose reward is a probability."""
    if isinstance(reward, Head):
        return reward.card.kinds  # it gives the others 1.0
    return STEP_KINDS if reward.calibrated else ()


def _tools(tools: Iterable[Tool | Mapping[str, Any]]) -> list[Tool]:
    return parse_tools(
        [tool.to_dict() if isinstance(tool, Tool) else tool for tool in tools], "tools"
    )


def _result(
    search: StepSearch,
    config: SearchConfig,
    reward: Reward,
    model: str,
    stats: Stats,
    tools: Iterable[Tool],
    stopped: Stop | None,
) -> SearchResult:
    (response, scored, tokens, score, _, _, complete), *others = search.answers()
    kinds = _judged_kinds(reward)
    steps = [made_step(step, response, value, logprob, kinds) for step, value, logprob in scored]
    alternatives = [
        Alternative(closed_calls((step for step, *_ in other_steps), text), value, finished, draws)
        for text, other_steps, _, value, _, draws, finished in others
    ]
    trace = None
    if config.trace:
        trace = [
            Candidate(turn, beam, text.decode("utf-8", "replace"), kinds, value, draws, fate)
            for turn, beam, text, kinds, value, draws, fate in search.trace()
        ]
    return SearchResult(
        calls=closed_calls((step for step, *_ in scored), response),
        complete=complete,
        score=score if steps else 0.0,
        probability=steps[-1].probability if complete else None,
        steps=steps,
        alternatives=alternatives,
        model=model,
        reward=reward.name,
        strategy=config.strategy,
        stats=stats,
        text=response.decode("utf-8", "replace"),
        tokens=tokens,
        stopped=stopped,
        missing=[] if complete else missing_parts(steps, tools),
        confidence=call_confidence(steps) if reward.calibrated else None,
        trace=trace,
    )
