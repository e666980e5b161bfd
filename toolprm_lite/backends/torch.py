"""The torch backend: transformers models, on a CPU or a GPU.

One batch of one row holds everything: prompts, and the tokens of all branches in order of arrival.
A mask from the ledger tells each token its ancestors. Knows nothing of tools, steps or
beams.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from toolprm_lite import _core
from toolprm_lite.backends.base import (
    RESPONSE_ROOM,
    Batch,
    Float32Array,
    Int32Array,
    MaskArray,
    ModelInfo,
    Output,
    Prefill,
    SequenceOp,
    check_prompt,
    checked_ops,
)
from toolprm_lite.backends.device_top_k import device_top_k
from toolprm_lite.backends.flat_cache import FlatCache, additive_mask, flat_attention
from toolprm_lite.backends.guard import Guard, guarded
from toolprm_lite.backends.hf_models import (
    TESTED,
    architecture,
    first_line,
    load_model,
    refuse_stateful,
    refuse_unsuitable,
)
from toolprm_lite.backends.hf_tokens import read_special_texts, read_vocabulary
from toolprm_lite.backends.memory import available_memory, check_memory
from toolprm_lite.backends.options import check_options
from toolprm_lite.backends.prompts import (
    CACHE_BYTES,
    CachedPrompt,
    PromptCache,
    plan_prompt,
)
from toolprm_lite.backends.static_step import ROWS, StaticStep, round_up, visible_places
from toolprm_lite.errors import ModelError, NoRoom
from toolprm_lite.process import compute, inherited, native_work
from toolprm_lite.special_texts import SpecialTexts

_PREFILL = 2048  # prompt tokens of one forward pass
_MASKED_PREFILL = 512  # of one that needs a mask, beside other prompts
_MAX_CONTEXT = 8192
_MAX_SEQUENCES = 128
_MAX_PROMPTS = 16

# Keys and values of a prompt, for each block.
States: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]


class TorchBackend:
    """A transformers model behind the `Backend` protocol.

    `model` is a causal language model with plain attention (full or sliding window) in every block,
    `tokenizer` its fast tokenizer; both may be the application's own, and are left as they were
    between calls. `context`: cells that prompt and branches share; None = the model's own, at most
    8192. `max_sequences`: live branches. `max_prompts`: prompts that searches may use at once.
    `prompt_cache`: bytes of the device's memory for the states of prompts that are not in use.

    Hidden states (`tap`) are the residual stream: layer L is the input of block L, as
    `hidden_states[L]`. L = number of blocks is the last block's output before the final norm.

    Raises `ModelError` for a model that this can't drive. An architecture that is not among the
    tested ones is held against its own plain forward pass first.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str | None = None,
        context: int | None = None,
        max_sequences: int = _MAX_SEQUENCES,
        max_prompts: int = _MAX_PROMPTS,
        prompt_cache: int = CACHE_BYTES,
    ) -> None:
        self._guard = Guard()
        config = model.config.get_text_config()
        source = name or str(getattr(model, "name_or_path", "")) or type(model).__name__
        refuse_unsuitable(config, source)
        refuse_stateful(model, source)
        if max_sequences < 1:
            raise ModelError(f"max_sequences is {max_sequences}; it must be at least 1")
        if max_prompts < 1:
            raise ModelError(f"max_prompts is {max_prompts}; it must be at least 1")
        trained = getattr(config, "max_position_embeddings", None) or _MAX_CONTEXT
        cells = context if context is not None else min(trained, _MAX_CONTEXT)
        check_options(context=cells)
        weight = next(model.parameters())
        check_memory(cells, _cell_bytes(config, weight.element_size()), _available(weight.device))
        self._model: Any = model
        self._tokenizer: Any = tokenizer
        self._config = config
        self._blocks = _find_blocks(model, config.num_hidden_layers)
        self._device: torch.device = next(model.parameters()).device
        self._dtype: torch.dtype = next(model.parameters()).dtype
        self._groups = config.num_attention_heads // (
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        )
        types = getattr(config, "layer_types", None)
        self._window: int | None = getattr(config, "sliding_window", None)
        self._types: frozenset[str] = frozenset(
            types or (["sliding_attention"] if self._window else ["full_attention"])
        )
        # A cap on the scores is not in torch's fused attention, so its prompts need a mask, too.
        self._capped = getattr(config, "attn_logit_softcapping", None) is not None
        vocab_size = model.get_output_embeddings().weight.shape[0]
        self._bytes, ends = read_vocabulary(tokenizer, vocab_size, _ends(model, tokenizer))
        self._special_texts = read_special_texts(tokenizer, vocab_size)
        self._wants_bos = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        self._cells, self._max_sequences = cells, max_sequences + max_prompts
        self._tapped: tuple[int, ...] = ()
        self._states: dict[int, torch.Tensor] = {}
        self._cache: Any = FlatCache(config.num_hidden_layers, cells)
        self._states_kept: PromptCache[States] = PromptCache(prompt_cache)
        self._begin_nothing()
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("tool_use") or template.get("default")
        self._info = ModelInfo(
            name=source.rstrip("/").rsplit("/", 1)[-1],
            architecture=architecture(config),
            vocab_size=vocab_size,
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            context=cells,
            max_sequences=max_sequences,
            eog_tokens=ends,
            chat_template=template,
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token or "",
            max_prompts=max_prompts,
        )
        # Steps of fixed shapes, by (rows, places, k). They pay where launching costs more than
        # computing, and take masks without windows only.
        self._static = self._device.type == "cuda" and (
            self._types == {"full_attention"} or (self._window or 0) >= cells
        )
        self._steps: dict[tuple[int, int, int], StaticStep] = {}
        self._pool: Any = None
        if config.model_type not in TESTED:
            self._try_out(source)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        context: int | None = None,
        prompt_cache: int = CACHE_BYTES,
    ) -> TorchBackend:
        """Open a transformers folder, a GGUF file or a hub id.

        `threads` sets torch's own, for the whole process. Raises `ModelError`.
        """
        check_options(threads=threads, context=context)
        if threads is not None:
            torch.set_num_threads(threads)
        with native_work:
            model, tokenizer, name = compute(lambda: load_model(source, device, dtype))
            return cls(model, tokenizer, name=name, context=context, prompt_cache=prompt_cache)

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes each token writes; special tokens as their text, end-of-generation as b""."""
        return self._bytes

    @property
    def special_texts(self) -> SpecialTexts:
        """The tokens that `tokenize` finds by their texts; see `Backend.special_texts`."""
        return self._special_texts

    @guarded
    def tokenize(self, text: str) -> list[int]:
        """Token ids of text; see `Backend.tokenize`."""
        text = text.encode("utf-8", "replace").decode()
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self._tokenizer.bos_token_id
        if self._wants_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens

    @guarded
    def tap(self, layers: Sequence[int]) -> None:
        """Choose the layers whose inputs are returned as `hidden`, each 0 .. layers.

        Raises `ModelError` for a layer that the model hasn't got.
        """
        wanted = tuple(layers)
        for layer in wanted:
            if not 0 <= layer <= self._info.layers:
                raise ModelError(
                    f"layer {layer} can't be tapped: {self._info.name} has {self._info.layers} "
                    f"blocks, so layers are 0 to {self._info.layers}"
                )
        if wanted != self._tapped:
            self._tapped = wanted
            self._steps.clear()

    @guarded
    def clear(self) -> None:
        """Forget everything: prompts, branches, cached states."""
        self._renew()

    @guarded
    def prefill(
        self,
        tokens: Sequence[int],
        mask: MaskArray | None,
        k: int,
        *,
        prompt: int = 0,
        room: int = RESPONSE_ROOM,
        chunk: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Prefill:
        """Make `tokens` the prompt of that number; see `Backend.prefill`."""
        wanted: Int32Array = np.ascontiguousarray(tokens, dtype=np.int32)
        check_prompt(wanted, self._info, prompt)
        count = len(wanted)
        kept = self._begin(wanted, prompt, room)
        ledger, own = self._ledger, self._branches[-prompt]
        seconds = 0.0
        done = kept
        while done < count:
            if stop is not None and stop():
                return Prefill(kept, done - kept, None)
            # Where the cache holds this prompt alone no mask is needed.
            lone = ledger.end == ledger.used == done
            size = min(_PREFILL if lone else _MASKED_PREFILL, chunk or _PREFILL)
            end = min(count, done + size)
            positions = np.arange(done, end)
            self._make_places(end - done)
            begin = ledger.end
            if lone:
                ledger.extend(own, end - done)
                allowed = None
            else:
                cells = [ledger.append(own) for _ in range(done, end)]
                allowed = ledger.ancestor_mask(cells, ledger.end)
            self._places[begin : ledger.end] = positions
            rows = np.array([end - done - 1] if end == count else [], np.int32)
            native_work.pause()
            started = time.perf_counter()
            try:
                logits, hidden = self._forward(
                    wanted[done:end], positions, begin, ledger.end, allowed, rows, rows
                )
            except BaseException:
                ledger.shorten(own, end - done)  # the cells hold nothing
                raise
            seconds += time.perf_counter() - started
            done = end
            self._prompts[prompt] = wanted[:done]
        return Prefill(kept, count - kept, self._output(logits, mask, k, hidden, seconds))

    @guarded
    def release(self, prompt: int) -> None:
        """Free the prompt's cells; see `Backend.release`."""
        self._drop_branches(prompt)
        if prompt in self._prompts:
            self._keep(prompt)
            self._forget(prompt)

    @property
    def prompt_cells(self) -> int:
        """Cells that prompts hold; what several of them share counts once."""
        ledger = self._ledger
        tips = [ledger.tip(self._branches[-number]) for number in self._prompts]
        return int(ledger.ancestor_mask(tips, ledger.end).any(axis=0).sum()) if tips else 0

    @guarded
    def decode(self, batch: Batch, masks: MaskArray | None, k: int) -> Output:
        """One model step; see `Backend.decode`."""
        self._carry_out(batch.ops)
        count = len(batch.tokens)
        if count == 0:
            hidden = None
            if self._tapped:
                hidden = np.empty((0, self._info.width * len(self._tapped)), np.float32)
            empty = np.empty((0, k))
            return Output(
                empty.astype(np.int32), empty.astype(np.float32), np.empty(0, np.float32), hidden
            )
        sequences = batch.sequences.tolist()
        limit = self._info.max_sequences
        if min(sequences) < 1 or max(sequences) > limit:
            raise ModelError(
                f"sequences {min(sequences)} to {max(sequences)} in a batch; branches are 1 to "
                f"{limit}"
            )
        if batch.tokens.min() < 0 or batch.tokens.max() >= self._info.vocab_size:
            raise ModelError(
                f"a batch has an invalid token; the vocabulary has {self._info.vocab_size}"
            )
        for sequence in set(sequences):
            self._own(sequence)
        ledger = self._ledger
        if ledger.used + count > self._cells:
            raise NoRoom(
                f"no free KV cells for {count} tokens in a context of {self._cells}; "
                "free branches, or give a larger --context"
            )
        self._make_places(count)
        begin = ledger.end
        cells = [ledger.append(self._branches[sequence]) for sequence in sequences]
        end = ledger.end
        self._places[begin:end] = batch.positions
        started = time.perf_counter()
        try:
            allowed = ledger.ancestor_mask(cells, end)
            if self._static and count <= ROWS[-1]:
                return self._static_decode(batch, begin, allowed, masks, k)
            logits, hidden = self._forward(
                batch.tokens, batch.positions, begin, end, allowed, batch.logits_at, batch.hidden_at
            )
        except BaseException:
            # The cells hold nothing: an interrupted step must not be attended to later.
            self.clear()
            raise
        return self._output(logits, masks, k, hidden, time.perf_counter() - started)

    def close(self) -> None:
        """Let go of model and cache. Safe to call twice."""
        if inherited(self._guard.forks):
            return
        self._model = self._tokenizer = self._cache = self._pool = None
        self._blocks = []
        self._steps.clear()
        self._states.clear()
        self._states_kept.clear()

    # The model

    def _forward(
        self,
        tokens: Int32Array,
        positions: Any,
        begin: int,
        end: int,
        allowed: Any,
        logits_at: Int32Array,
        hidden_at: Int32Array,
    ) -> tuple[torch.Tensor, Float32Array | None]:
        """Logits [len(logits_at), vocabulary] and states [len(hidden_at), layers * width].

        The tokens go to the places `begin` .. `end`; `allowed` [tokens, end] says what each
        attends to, None that they go on the prompt.
        """
        self._cache.write_at(begin, end)

        def put(values: Any) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.int64)).to(self._device)

        rows = put(logits_at)
        with torch.inference_mode(), flat_attention(self._config), self._hooks():
            output = self._model(
                input_ids=put(tokens)[None],
                position_ids=put(positions)[None],
                attention_mask=self._mask(allowed, positions, begin, end),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=rows if len(rows) else 1,
            )
            hidden = None
            if self._tapped:
                at = put(hidden_at)
                states = [self._states[layer][0].index_select(0, at) for layer in self._tapped]
                hidden = torch.cat(states, dim=1).float().cpu().numpy()
                self._states.clear()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            return output.logits[0, : len(rows)], hidden

    def _static_decode(
        self, batch: Batch, begin: int, allowed: Any, masks: MaskArray | None, k: int
    ) -> Output:
        rows = round_up(len(batch.tokens), ROWS)
        places = visible_places(allowed.shape[1], self._cells)
        started = time.perf_counter()
        with torch.inference_mode(), flat_attention(self._config), self._hooks():
            step = self._steps.get((rows, places, k))
            if step is None:
                if self._device.type == "cuda" and self._pool is None:
                    self._pool = torch.cuda.graph_pool_handle()
                step = self._steps[rows, places, k] = StaticStep(
                    self._static_forward,
                    rows=rows,
                    places=places,
                    spare=self._cache.spare,
                    words=(self._info.vocab_size + 31) // 32,
                    k=k,
                    device=self._device,
                    pool=self._pool,
                )
            ids, logprobs, entropy, states = step(
                batch.tokens, batch.positions, begin, allowed, masks, batch.logits_at,
                batch.hidden_at,
            )  # fmt: skip
        return Output(ids, logprobs, entropy, states, time.perf_counter() - started)

    def _static_forward(
        self, ids: torch.Tensor, positions: torch.Tensor, places: torch.Tensor, allowed: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self._cache.write_to(places, allowed.shape[1])
        mask = additive_mask(allowed.bool(), self._groups, self._dtype)
        both = {"full_attention": mask, "sliding_attention": mask}
        output = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=both if len(self._types) > 1 else mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=0,
        )
        states = [self._states[layer][0] for layer in self._tapped]
        self._states.clear()
        return output.logits[0], torch.cat(states, dim=1) if states else None

    def _mask(self, allowed: Any, positions: Any, begin: int, end: int) -> Any:
        sees_all = self._types == {"full_attention"} or (
            self._window is not None and end <= self._window
        )
        if allowed is None and begin == 0 and sees_all and not self._capped:
            return None
        if allowed is None:
            lower = np.arange(end)[None, :] <= np.arange(begin, end)[:, None]
        else:
            lower = allowed.view(np.bool_)
        full = self._additive(lower)
        if sees_all:
            near = full
        else:
            where = np.arange(end) if allowed is None else self._places[:end]
            close = np.asarray(positions)[:, None] - where[None, :] < self._window
            near = self._additive(lower & close)
        if self._types == {"full_attention"}:
            return full
        if self._types == {"sliding_attention"}:
            return near
        return {"full_attention": full, "sliding_attention": near}

    def _additive(self, allowed: Any) -> torch.Tensor:
        mask = torch.from_numpy(np.ascontiguousarray(allowed)).to(self._device)
        return additive_mask(mask, self._groups, self._dtype)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Catch the inputs of the tapped blocks, meanwhile."""
        states, blocks = self._states, self._blocks

        def before(layer: int) -> Any:
            def hook(_: Any, args: Any, kwargs: Any) -> None:
                states[layer] = args[0] if args else kwargs["hidden_states"]

            return hook

        def after(_: Any, __: Any, output: Any) -> None:
            states[len(blocks)] = output[0] if isinstance(output, tuple) else output

        handles = [
            blocks[layer].register_forward_pre_hook(before(layer), with_kwargs=True)
            if layer < len(blocks)
            else blocks[-1].register_forward_hook(after)
            for layer in set(self._tapped)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _output(
        self,
        logits: torch.Tensor,
        masks: MaskArray | None,
        k: int,
        hidden: Float32Array | None,
        seconds: float,
    ) -> Output:
        with torch.inference_mode():
            if self._device.type == "cpu":
                table = np.ascontiguousarray(logits.float().numpy())
                return Output(*_core.top_k(table, masks, k), hidden, seconds)
            return Output(*device_top_k(logits, masks, k), hidden, seconds)

    @guarded
    def _try_out(self, source: str) -> None:
        """Hold two branches against the model's own forward pass."""
        size = self._info.vocab_size
        tokens = [(7 * place + 11) % size for place in range(12)]
        prompt, first, second = tokens[:6], tokens[6:9], tokens[9:]

        def ints(values: Any) -> Int32Array:
            return np.asarray(values, np.int32)

        try:
            self.prefill(prompt, None, 1)
            fork = [(SequenceOp.FORK, 0, 1), (SequenceOp.FORK, 0, 2)]
            self._carry_out(ints(fork))
            begin = self._ledger.end
            cells = [self._ledger.append(self._own(branch)) for branch in (1, 1, 1, 2, 2, 2)]
            end = self._ledger.end
            positions = ints([6, 7, 8, 6, 7, 8])
            self._places[begin:end] = positions
            rows = ints([2, 5])
            flat, _ = self._forward(
                ints(first + second),
                positions,
                begin,
                end,
                self._ledger.ancestor_mask(cells, end),
                rows,
                rows,
            )
            with torch.inference_mode():
                plain = torch.stack(
                    [
                        self._model(torch.tensor([prompt + branch], device=self._device)).logits[
                            0, -1
                        ]
                        for branch in (first, second)
                    ]
                )
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"{source} ({self._config.model_type}) can't be driven branch by branch "
                f"({first_line(error)}); use its GGUF file with --backend llamacpp"
            ) from error
        finally:
            self.clear()
        spread = float(plain.float().std())
        difference = float((plain.float() - flat.float()).abs().max())
        if not difference < 0.1 * spread + 1e-3:
            raise ModelError(
                f"{source} ({self._config.model_type}) gives other logits branch by branch than "
                f"alone (by {difference:.2g}, where they spread by {spread:.2g}); use its GGUF "
                "file with --backend llamacpp"
            )

    # Branches and cells

    def _begin_nothing(self) -> None:
        self._ledger = _core.KvLedger(self._max_sequences, self._cells, 0)
        self._prompts: dict[int, Int32Array] = {}
        self._branches: dict[int, int] = {}  # sequences, and the ledger's for them
        self._owners: dict[int, int] = {}  # branches, and the prompt of each
        self._places = np.arange(self._cells, dtype=np.int32)  # the position of each place's token

    def _drop_branches(self, prompt: int) -> None:
        for branch in [branch for branch, owner in self._owners.items() if owner == prompt]:
            del self._owners[branch]
            self._ledger.drop(self._branches.pop(branch))
        self._ledger.take_ops()  # nobody asks for them

    def _begin(self, wanted: Int32Array, number: int, room: int) -> int:
        """Make the prompt a beginning of `wanted`, and return its length."""
        plan = plan_prompt(
            self._prompts, self._states_kept, wanted, number,
            whole=False, used=self.prompt_cells, room=room, context=self._cells,
        )  # fmt: skip
        self._drop_branches(number)
        if plan.keeps_own:
            self._keep(number)
        ledger = self._ledger
        held = len(self._prompts.get(number, ()))
        if plan.entry is not None:
            self._forget(number)
            ledger.settle()
            self._restore(plan.entry, plan.length, number)
        elif plan.source == number and number in self._prompts:
            ledger.shorten(self._branches[-number], held - plan.length)
        elif plan.length:
            self._forget(number)
            source = plan.source
            self._branches[-number] = ledger.fork(self._branches[-source])
            ledger.shorten(self._branches[-number], len(self._prompts[source]) - plan.length)
        else:
            self._branches[-number] = ledger.fork(0)
        ledger.take_ops()
        ledger.settle()
        self._prompts[number] = wanted[: plan.length]
        return plan.length

    def _restore(self, entry: CachedPrompt[States], length: int, number: int) -> None:
        """Write the beginning of a cached state back."""
        ledger = self._ledger
        self._make_places(length)
        self._branches[-number] = ledger.fork(0)
        begin = ledger.end
        ledger.extend(self._branches[-number], length)
        self._cache.write(begin, entry.state, length)
        self._places[begin : begin + length] = np.arange(length)

    def _keep(self, number: int) -> None:
        """Put a prompt's state into the cache, unless one there can stand for it."""
        tokens = self._prompts[number]
        if not len(tokens) or self._states_kept.stands_for(tokens):
            return
        end = self._ledger.end
        (seen,) = self._ledger.ancestor_mask([self._ledger.tip(self._branches[-number])], end)
        size = self._cache.cell_bytes * len(tokens)
        if size <= self._states_kept.limit:
            state = self._cache.read(torch.from_numpy(np.flatnonzero(seen)))
            self._states_kept.put(tokens, state, size)

    def _forget(self, number: int) -> None:
        if number in self._prompts:
            del self._prompts[number]
            self._ledger.drop(self._branches.pop(-number))

    def _own(self, branch: int) -> int:
        own = self._branches.get(branch)
        if own is None:
            raise ModelError(f"sequence {branch} holds nothing; fork it from the prompt first")
        return own

    def _fork(self, source: int, destination: int) -> None:
        ledger, branches = self._ledger, self._branches
        if destination in branches:
            ledger.drop(branches.pop(destination))
        branches[destination] = ledger.fork(self._own(source))
        self._owners[destination] = -source if source <= 0 else self._owners[source]

    def _carry_out(self, ops: Int32Array) -> None:
        ledger, branches = self._ledger, self._branches
        for kind, first, second in checked_ops(ops, self._info):
            if kind == SequenceOp.FORK:
                self._fork(first, second)
            elif first in branches:
                ledger.drop(branches.pop(first))
                del self._owners[first]
        ledger.take_ops()

    def _make_places(self, count: int) -> None:
        """See that `count` places are free at the end."""
        if self._ledger.end + count > self._cells:
            self._compact()

    def _compact(self) -> None:
        """Close the gaps that dropped branches and prompts left."""
        places = np.asarray(self._ledger.compact(), np.int64)
        moved = np.flatnonzero(places != np.arange(len(places)))
        if len(moved):
            first = int(moved[0])
            self._cache.compact(first, torch.from_numpy(places[first:]))
            self._places[first : len(places)] = self._places[places[first:]]

    def _renew(self) -> None:
        self._states.clear()
        self._states_kept.clear()
        self._begin_nothing()

    def _require(self) -> None:
        if self._model is None:
            raise ModelError("the model is closed; open it again")


def _find_blocks(model: Any, count: int) -> Any:
    """The list of the model's blocks."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"{type(model).__name__} has no list of {count} blocks; use its GGUF file with "
        "--backend llamacpp"
    )


def _cell_bytes(config: Any, size: int) -> int:
    """Bytes of one token's keys and values, of `size` each."""
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * shared * width * size)


def _available(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory() if device.type == "cpu" else None


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that the model's own settings end a response with."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = set(named if isinstance(named, (list, tuple)) else [named])
    ends.add(tokenizer.eos_token_id)
    return {int(token) for token in ends if token is not None}
