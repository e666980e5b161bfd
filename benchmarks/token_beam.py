"""Beam search over tokens, as it is usually done: for comparison with the beam over steps.

Each round extends every beam by one token and keeps the N likeliest of all extensions. A response
that ends among the first N is set aside and takes no beam's place; the N best of these are kept, by
log-probability per token. A response that becomes invalid has used up its place: only the mask
looks ahead. The search is over when no beam scores more than the worst that is set aside, as with
early_stopping=False and length_penalty=1 in transformers. It reads no reward and draws nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from request import Request

from toolprm_lite._core import KvLedger, Segmenter, Step
from toolprm_lite.backends.base import Backend, Batch, Float32Array, Int32Array, MaskArray
from toolprm_lite.constraint import Matcher
from toolprm_lite.search.steps import Call
from toolprm_lite.search.text import closed_calls

TokenRow = tuple[Int32Array, Float32Array]  # the likeliest tokens, with their log-probabilities


@dataclass(frozen=True)
class Beam:
    """A response, finished or not. `sequence`, 0 for the prompt's, holds `cached` of its tokens."""

    segmenter: Segmenter
    matcher: Matcher
    forced: list[int]  # that must follow, in order
    sequence: int = 0
    cached: int = 0
    tokens: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    logprob: float = 0.0
    sampled: int = 0  # tokens that were not forced

    @property
    def score(self) -> float:
        return math.exp(self.logprob / max(self.sampled, 1))

    @property
    def complete(self) -> bool:
        return self.segmenter.finished

    @property
    def calls(self) -> list[Call]:
        return closed_calls(self.steps)


@dataclass(frozen=True)
class Offer:
    """A token that may extend a beam."""

    beam: Beam
    token: int
    logprob: float  # of the extended response
    forced: bool = False


class TokenBeamSearch:
    """Keeps `beams` responses of at most `max_tokens`. Without `constrain` nothing is masked."""

    def __init__(
        self, backend: Backend, beams: int, *, max_tokens: int = 256, constrain: bool = True
    ) -> None:
        self.decoded = 0  # tokens, forced ones included, of the last search
        self.prefill_seconds = 0.0
        self._backend = backend
        self._beams = beams
        self._max_tokens = max_tokens
        self._constrain = constrain

    def run(self, request: Request) -> list[Beam]:
        """At most `beams` responses, finished ones first, best first; none if all are invalid."""
        info = self._backend.info
        self.decoded = 0
        self._request = request
        self._ledger = KvLedger(info.max_sequences, info.context, len(request.prompt))
        matcher, forced = request.constraint.start()
        root = Beam(request.segmenter.copy(), matcher, list(forced) if self._constrain else [])
        began = time.perf_counter()
        prefill = self._backend.prefill(request.prompt, self._masks([root]), 2 * self._beams)
        self.prefill_seconds = time.perf_counter() - began
        assert prefill.output is not None
        self._first = prefill.output
        running = [root]
        finished: list[Beam] = []
        while running and len(running[0].tokens) < self._max_tokens:
            running, ended = self._extended(running)
            finished = sorted([*finished, *ended], key=lambda beam: -beam.score)[: self._beams]
            full = len(finished) == self._beams
            if full and all(beam.score <= finished[-1].score for beam in running):
                break
        running.sort(key=lambda beam: -beam.score)
        return [*finished, *running][: self._beams]

    def _extended(self, running: list[Beam]) -> tuple[list[Beam], list[Beam]]:
        """The beams of the next round, and the responses that ended in this one."""
        known, offers = self._offers(running)
        offers.sort(key=lambda offer: -offer.logprob)
        following: list[Beam] = []
        ended: list[Beam] = []
        places = self._beams
        for rank, offer in enumerate(offers):
            child = self._child(offer)
            if child.segmenter.finished:
                if rank < self._beams:
                    ended.append(child)
                continue
            places -= 1
            if not child.segmenter.dead:
                following.append(self._continued(child, offer))
            if places == 0:
                break
        for beam in known:
            if beam.sequence:
                self._ledger.drop(beam.sequence)
        return following, ended

    def _offers(self, running: list[Beam]) -> tuple[list[Beam], list[Offer]]:
        """The beams as they are in the cache now, and what may extend them."""
        open_beams = [beam for beam in running if not beam.forced]
        rows = self._next_tokens(open_beams) if open_beams else iter(())
        known: list[Beam] = []
        offers: list[Offer] = []
        for beam in running:
            if beam.forced:
                known.append(beam)
                offers.append(Offer(beam, beam.forced[0], beam.logprob, forced=True))
                continue
            beam = replace(beam, cached=len(beam.tokens))
            known.append(beam)
            tokens, logprobs = next(rows)
            offers += [
                Offer(beam, token, beam.logprob + logprob)
                for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True)
                if token >= 0
            ]
        return known, offers

    def _child(self, offer: Offer) -> Beam:
        beam, token = offer.beam, offer.token
        segmenter = beam.segmenter.copy()
        if token in self._backend.info.eog_tokens:
            steps = segmenter.finish()
        else:
            steps = segmenter.feed(self._backend.token_bytes[token])
        return replace(
            beam,
            segmenter=segmenter,
            forced=beam.forced[1:],
            tokens=[*beam.tokens, token],
            steps=[*beam.steps, *steps],
            logprob=offer.logprob,
            sampled=beam.sampled + (not offer.forced),
        )

    def _continued(self, child: Beam, offer: Offer) -> Beam:
        """The child with a sequence of its own and its place in the grammar."""
        sequence = self._ledger.fork(child.sequence)
        assert sequence > 0, "no sequence is free; give fewer beams"
        if offer.forced or not self._constrain:
            return replace(child, sequence=sequence)
        constraint = self._request.constraint
        matcher = constraint.fork(child.matcher)
        forced = constraint.advance(matcher, offer.token)
        return replace(child, sequence=sequence, matcher=matcher, forced=list(forced))

    def _next_tokens(self, beams: list[Beam]) -> Iterator[TokenRow]:
        """The 2 N likeliest tokens after each beam: as many again as N, for some may finish."""
        if not beams[0].tokens:
            output = self._first
        else:
            output = self._backend.decode(self._batch(beams), self._masks(beams), 2 * self._beams)
        return zip(output.top_ids, output.top_logprobs, strict=True)

    def _masks(self, beams: list[Beam]) -> MaskArray | None:
        if not self._constrain:
            return None
        masks = np.empty((len(beams), self._request.constraint.words), np.uint32)
        self._request.constraint.fill([beam.matcher for beam in beams], masks)
        return masks

    def _batch(self, beams: list[Beam]) -> Batch:
        """The tokens of the beams that are not in the cache yet."""
        first = len(self._request.prompt)
        counts = [len(beam.tokens) - beam.cached for beam in beams]
        self.decoded += sum(counts)
        for beam, count in zip(beams, counts, strict=True):
            assert self._ledger.extend(beam.sequence, count), "no cell is free; --context"
        return Batch(
            ops=self._ledger.take_ops(),
            tokens=np.array([t for beam in beams for t in beam.tokens[beam.cached :]], np.int32),
            positions=np.concatenate(
                [
                    np.arange(first + beam.cached, first + len(beam.tokens), dtype=np.int32)
                    for beam in beams
                ]
            ),
            sequences=np.repeat(np.array([beam.sequence for beam in beams], np.int32), counts),
            logits_at=np.cumsum(counts, dtype=np.int32) - 1,
            hidden_at=np.empty(0, np.int32),
        )
