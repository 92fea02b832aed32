"""The cells that a run has to see done: by its own workers, or by another command."""

from __future__ import annotations

from benchmarks.records.claims import Claims
from benchmarks.records.record import Record
from benchmarks.records.store import Store
from benchmarks.suite.config import Cell


class Agenda:
    """What is left to compute, shared with all commands that compute cells of the same folder.

    Args:
        todo: the cells by their keys.
        store: where records are kept.
        claims: of the store; what others claim is theirs.

    Attributes:
        todo: all cells.
        elsewhere: records that another command has made since this one began.
    """

    def __init__(self, todo: dict[str, Cell], store: Store, claims: Claims) -> None:
        self.todo = todo
        self.elsewhere: list[Record] = []
        self._store, self._claims = store, claims
        self._waiting, self._alone = list(todo), list[str]()
        self._tried: set[str] = set()
        self._before = {key: store.state(key) for key in todo}

    @property
    def left(self) -> bool:
        """Whether there are cells that nobody computes, or another command."""
        return bool(self._waiting or self._alone)

    @property
    def others(self) -> set[str]:
        """The commands that compute what is left."""
        return {who for key in self._waiting if (who := self._claims.holder(key)) is not None}

    def take(self, idle: bool) -> str | None:
        """The key of the next cell to compute, which is then claimed; None: there is none now.

        Args:
            idle: nothing else is under way; those that are to be tried alone wait for that.
        """
        for key in list(self._waiting):
            if not self._claims.take(key):
                continue
            self._waiting.remove(key)
            record = self._made(key)
            if record is None:
                return key
            self._claims.free(key)
            self.elsewhere.append(record)
        return self._alone.pop(0) if idle and self._alone and not self._waiting else None

    def _made(self, key: str) -> Record | None:
        """The record of a cell that another command has computed since this one began."""
        if self._store.state(key) == self._before[key]:
            return None
        return self._store.get(key)

    def again(self, key: str, alone: bool) -> bool:
        """Put back a cell whose worker died, to be tried once more when the others are done.

        Args:
            key: the cell's.
            alone: with nothing beside it, as there was not enough memory.

        Returns:
            whether it was the first time.
        """
        first = key not in self._tried
        if first:
            self._tried.add(key)
            (self._alone if alone else self._waiting).append(key)
        return first

    def done(self, key: str) -> None:
        """The cell's record is kept; others may look at it."""
        self._claims.free(key)
