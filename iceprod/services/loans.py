"""What was lent to which site, by any of the processes that share a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from iceprod.services.bulletin import Draft, Loan

Listener = Callable[[Loan], None]


class Loans:
    """Tells other processes what this one has lent, and ``on_elsewhere`` what they have."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._listeners: list[Listener] = []

    def listen(self, on_elsewhere: Listener) -> None:
        """Call ``on_elsewhere``, which is quick and does not raise, for each loan of another process."""
        self._listeners.append(on_elsewhere)

    def lent(self, loan: Loan) -> None:
        """This process has lent something."""
        self._draft.lent(loan)

    def lent_elsewhere(self, loans: Iterable[Loan]) -> None:
        """Other processes have lent something."""
        for loan in loans:
            for listener in self._listeners:
                listener(loan)
