"""Limits and metrics of a hub."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Queue sizes and intervals.

    Attributes:
        room: events that may wait for one subscriber.
        page: changes per read.
        burst: seconds between two reads of the feed.
        calm: the longest such pause, while hints announce no changes.
        silence: seconds without a hint after which the feed is read.
        poll: the same while the transport is unreachable.
        failures: consecutive failures after which the transport counts as unreachable.
        settled: seconds after which a connection counts as successful.
        replay: past changes kept per topic.
    """

    room: int = 1000
    page: int = 500
    burst: float = 0.01
    calm: float = 0.05
    silence: float = 5.0
    poll: float = 2.0
    failures: int = 3
    settled: float = 5.0
    replay: int = 50


@dataclass
class Metrics:
    """Counters of a hub since its start.

    Attributes:
        delivered: events put into queues.
        healed: changes found without a hint.
        resyncs: subscribers that had to read their tables again.
        reads: queries.
        rows_read: changes read.
        reconnects: connections after the first one.
        lagging: number of times that a subscriber fell behind.
        most_waiting: the most events that waited for one subscriber.
        fleeting_dropped: fleeting events without room in a queue.
        unreadable: skipped messages and values that could not be read.
        errors: reported errors, after which the hub tried again.
    """

    delivered: int = 0
    healed: int = 0
    resyncs: int = 0
    reads: int = 0
    rows_read: int = 0
    reconnects: int = 0
    lagging: int = 0
    most_waiting: int = 0
    fleeting_dropped: int = 0
    unreadable: int = 0
    errors: int = 0
