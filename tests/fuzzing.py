"""Run drawn and mutated inputs under a time limit, and count which are accepted and which refused."""

from __future__ import annotations

import faulthandler
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

from hf_ft.errors import HfFtError

# No input of these tests takes a second; a busy machine may be slow.
SECONDS = 30
LONGEST_MESSAGE = 6000


class Hang(BaseException):
    """A case did not end; no `except Exception` may catch this."""


@contextmanager
def time_limit(seconds: int = SECONDS) -> Iterator[None]:
    """Raise `Hang` in the main thread after this time; end the process if even that has no effect."""

    def stop(*_: Any) -> None:
        raise Hang(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # C code that never returns to Python sees no signal.
    faulthandler.dump_traceback_later(4 * seconds, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@dataclass
class Tally:
    """Counts of one kind of inputs.

    Args:
        kind: name of the kind, for the summary.
    """

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)

    def tried(
        self,
        call: Callable[[], Any],
        names: tuple[str, ...],
        wrong: Callable[[Any], str | None] = lambda value: None,
        may_refuse: bool = True,
    ) -> None:
        """Run one case: it gives what is right, or an HfFtError that names the place.

        Args:
            call: what is tested.
            names: a message must contain one of them; empty: any message.
            wrong: says what is wrong with what `call` returned; None: nothing.
            may_refuse: whether an error is allowed; false for inputs that are valid.

        Raises:
            AssertionError: the value is wrong, or a message is unclear.
            Exception: every other exception of `call`.
            Hang: `call` did not end.
        """
        try:
            with time_limit():
                value = call()
                problem = wrong(value)
        except HfFtError as error:
            message = str(error)
            assert may_refuse, f"a valid input was refused: {message}"
            assert message.strip() and len(message) <= LONGEST_MESSAGE, f"{len(message)} characters"
            assert message.encode(), "the message can be written"
            assert not names or any(name in message for name in names), f"names none of {names}: {message}"
            self.outcomes["refused"] += 1
        else:
            assert problem is None, problem
            self.outcomes["accepted"] += 1

    def __str__(self) -> str:
        total, found = sum(self.outcomes.values()), self.outcomes
        return (
            f"{self.kind}: {total:,} cases, {found['accepted']:,} accepted and right, {found['refused']:,} "
            f"refused with a clear error, {found['failed']:,} failed"
        )


def mutated(tally: Tally, seed: int, cases: int, try_case: Callable[[random.Random], str]) -> list[str]:
    """Run cases, each with its own random numbers, and return the failures.

    Args:
        tally: counts failures, too.
        seed: the seed of all.
        cases: number of cases.
        try_case: runs one case; it adds what a reader needs in order to repeat it as a note to its errors.
    """
    failures = []
    for number in range(cases):
        try:
            try_case(random.Random(f"{tally.kind} {seed} {number}"))
        except (Exception, Hang) as error:
            tally.outcomes["failed"] += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            notes = " ".join(getattr(error, "__notes__", []))
            failures.append(
                f"case {number}: {type(error).__name__}: {str(error)[:700]} "
                f"[{last.filename.rpartition('/')[2]}:{last.lineno}] {notes[:1500]}"
            )
    return failures


def drawn(cases: int, seed: int, *strategies: Any) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Decorate a function of drawn values, so that a call of it tries this many examples.

    Args:
        cases: number of examples.
        seed: a failure is repeated by the same seed.
        strategies: one for each argument of the function.
    """

    def decorate(function: Callable[..., None]) -> Callable[[], None]:
        checked = hypothesis.given(*strategies)(function)
        checked = hypothesis.settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )(checked)
        return hypothesis.seed(seed)(checked)

    return decorate
