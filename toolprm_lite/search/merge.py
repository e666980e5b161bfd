"""The rows of several searches as one batch of a model step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolprm_lite.backends.base import Batch, Int32Array, MaskArray
from toolprm_lite.search.job import Job


def ops_array(ops: Sequence[tuple[int, int, int]]) -> Int32Array:
    """Sequence operations as `Batch.ops`, int32 [operations, 3]."""
    return np.array(ops, np.int32).reshape(-1, 3)


def merged_batch(
    ops: Sequence[tuple[int, int, int]], jobs: Sequence[Job]
) -> tuple[Batch, MaskArray | None]:
    """The rows of all jobs as one batch, in the backend's sequences, and their masks."""
    requests = [job.rows for job in jobs]
    batches = [request.batch for request in requests]
    lengths = np.array([len(batch.tokens) for batch in batches], np.int32)
    begins = np.cumsum(lengths, dtype=np.int32) - lengths
    sequences = [
        np.array([job.sequences[own] for own in batch.sequences.tolist()], np.int32)
        for job, batch in zip(jobs, batches, strict=True)
    ]

    def shifted(places: list[Int32Array]) -> Int32Array:
        return np.concatenate([at + begin for at, begin in zip(places, begins, strict=True)])

    merged = Batch(
        ops=ops_array(ops),
        tokens=np.concatenate([batch.tokens for batch in batches]),
        positions=np.concatenate([batch.positions for batch in batches]),
        sequences=np.concatenate(sequences),
        logits_at=shifted([batch.logits_at for batch in batches]),
        hidden_at=shifted([batch.hidden_at for batch in batches]),
    )
    given = [request.masks for request in requests if request.masks is not None]
    if not given:
        return merged, None
    masks = np.full((len(merged.logits_at), given[0].shape[1]), ~np.uint32(0))
    row = 0
    for request in requests:
        if request.masks is not None:
            masks[row : row + len(request.masks)] = request.masks
        row += len(request.batch.logits_at)
    return merged, masks
