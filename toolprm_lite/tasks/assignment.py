"""The best one-to-one assignment of a response's calls to the answers, grown a call at a time."""

from __future__ import annotations


class Assignment:
    """The best one-to-one assignment of rows to columns, grown a row at a time.

    A row is a tuple of weights >= 0, one a column; a row may stay without a column, at 0. `value`
    is the sum over the best assignment. Growing one does not change it, so that branches share it.
    """

    __slots__ = ("_grown", "_owner", "_weights", "_without", "value")

    def __init__(
        self,
        weights: tuple[tuple[int, ...], ...] = (),
        owner: tuple[int, ...] = (),
        value: int = 0,
    ) -> None:
        self.value = value
        self._weights = weights
        self._owner = owner  # of each column: its row, or -1
        self._grown: dict[tuple[int, ...], Assignment] = {}
        self._without: dict[int, int] = {}

    @property
    def rows(self) -> int:
        return len(self._weights)

    def assign(self, row: tuple[int, ...]) -> Assignment:
        """The best assignment with one row more."""
        grown = self._grown.get(row)
        if grown is None:
            weights = (*self._weights, row)
            before = self._owner or (-1,) * len(row)
            gain, owner = _augment(weights, before, len(weights) - 1, -1)
            grown = self._grown[row] = Assignment(weights, owner, self.value + gain)
        return grown

    def without(self, column: int) -> int:
        """The best value that leaves this column free."""
        value = self._without.get(column)
        if value is None:
            row = self._owner[column] if self._owner else -1
            value = self.value
            if row >= 0:
                gain, _ = _augment(self._weights, self._owner, row, column)
                value += gain - self._weights[row][column]
            self._without[column] = value
        return value


def _augment(
    weights: tuple[tuple[int, ...], ...], owner: tuple[int, ...], row: int, banned: int
) -> tuple[int, tuple[int, ...]]:
    """The gain of the best alternating path from `row`, and the columns' owners after it.

    `owner`, without the banned column, must be optimal for the other rows: then no cycle gains, and
    the longest path is found by relaxing (Bellman-Ford).
    """
    columns = [column for column in range(len(owner)) if column != banned]
    gains = list(weights[row])
    source = [-1] * len(owner)
    changed = True
    while changed:
        changed = False
        for column in columns:
            if owner[column] < 0:
                continue
            moved = weights[owner[column]]
            rest = gains[column] - moved[column]
            for other in columns:
                if other != column and rest + moved[other] > gains[other]:
                    gains[other] = rest + moved[other]
                    source[other] = column
                    changed = True
    best, end = 0, -1  # the row stays without a column
    for column in columns:
        held = weights[owner[column]][column] if owner[column] >= 0 else 0
        if gains[column] - held > best:
            best, end = gains[column] - held, column
    after = list(owner)
    if banned >= 0:
        after[banned] = -1
    while end >= 0:
        after[end] = row if source[end] < 0 else owner[source[end]]
        end = source[end]
    return best, tuple(after)
