"""How much a hub allows, and what it has done."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much and how long.

    Attributes:
        room: events that wait for one subscriber.
        page: changes that are read at once.
        burst: seconds between two looks at the feed.
        calm: the same at most, while hints announce what is not there.
        silence: seconds without a hint after which the feed is looked at all the same.
        poll: the same while the transport cannot be reached.
        failures: the transport counts as out of reach after so many in a row.
        settled: a connection that held so many seconds was a success.
        replay: changes of a topic that are remembered.
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
    """What a hub has done since it began.

    Attributes:
        delivered: events that were put into queues.
        healed: changes that were found without any hint.
        resyncs: subscribers that were told to read anew.
        reads: queries.
        rows_read: changes that were read.
        reconnects: connections after the first one.
        lagging: how often a subscriber fell behind.
        most_waiting: the most events that waited for one subscriber.
        fleeting_dropped: fleeting events for which there was no room.
        unreadable: what arrived and could not be read, and was passed over.
        errors: failures that were told and tried again.
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
