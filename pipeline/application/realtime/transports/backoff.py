"""How long to wait before the next try: longer each time, and never all at the same moment.

Full jitter: many clients that lost one server together do not come back together.
"""

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Waits between tries.

    Attributes:
        base: the longest first wait, in seconds; it doubles with each try.
        cap: no wait is longer.
        tries: how often in a row it failed.
    """

    base: float = 0.2
    cap: float = 30.0
    tries: int = 0
    _random: random.Random = field(default_factory=random.SystemRandom, repr=False)

    def next(self) -> float:
        """Seconds to wait now; another failure is counted."""
        # The exponent is bounded, because a float has no room for two to the thousandth.
        most = min(self.cap, self.base * 2.0 ** min(self.tries, 30))
        self.tries += 1
        return self._random.uniform(0, most)

    def reset(self) -> None:
        """It worked: the next wait is short again."""
        self.tries = 0
