"""Exponential backoff with full jitter.

Clients that lost a server at the same time do not reconnect at the same time.
"""

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Waits between attempts.

    Attributes:
        base: the longest first wait, in seconds; it doubles with each attempt.
        cap: the longest wait, in seconds.
        tries: consecutive failures.
    """

    base: float = 0.2
    cap: float = 30.0
    tries: int = 0
    _random: random.Random = field(default_factory=random.SystemRandom, repr=False)

    def next(self) -> float:
        """Count a failure; returns the seconds to wait."""
        # The exponent is bounded, because larger ones overflow a float.
        most = min(self.cap, self.base * 2.0 ** min(self.tries, 30))
        self.tries += 1
        return self._random.uniform(0, most)

    def reset(self) -> None:
        """Start again with a short wait, after a success."""
        self.tries = 0
