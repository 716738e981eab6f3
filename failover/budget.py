"""How many loads may read every partition because their lookup node does not answer. No I/O.

A token bucket. Were every lookup node down, each load would cost MySQL a read of thirty partitions:
the budget keeps what MySQL is asked within what it can do, and makes the rest wait.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """A token bucket that can be in debt: whoever comes waits for its own token, in order.

    Args:
        rate: tokens a second.
        burst: tokens at most.
        tokens: tokens now; negative while some are promised.
        at: when that was, seconds on any steady clock.
    """

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, now: float, longest: float) -> tuple[bool, float]:
        """Take a token, or the promise of one.

        Args:
            longest: seconds that the caller can wait.

        Returns:
            Whether a token is taken, and the seconds to wait: for it, or until there would be one.
        """
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        wait = max(0.0, (1 - self.tokens) / self.rate)
        if wait > longest:
            return False, wait
        self.tokens -= 1
        return True, wait
