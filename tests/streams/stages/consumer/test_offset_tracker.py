"""What of a Kafka partition is done, and the text that a commit carries of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.stages.consumer.offset_tracker import MAX_METADATA, OffsetTracker


@given(st.integers(0, 50), st.data())
def test_the_low_water_mark_is_the_first_message_in_hand(start: int, data: st.DataObject) -> None:
    tracker = OffsetTracker(start)
    offsets = sorted(data.draw(st.sets(st.integers(start, start + 60), max_size=30)))
    for offset in offsets:
        tracker.take(offset)
    left = set(offsets)
    for offset in data.draw(st.permutations(offsets)):
        assert tracker.acknowledge(offset)
        assert not tracker.acknowledge(offset)
        left.discard(offset)
        assert tracker.low == min(left, default=tracker.position)
    assert tracker.low == (offsets[-1] + 1 if offsets else start)


@given(st.integers(0, 50), st.integers(1, 400), st.data())
def test_a_commit_tells_what_is_done_beyond_it(start: int, count: int, data: st.DataObject) -> None:
    """Over several lives: each takes some messages, finishes some of them in any order, and commits."""
    done: set[int] = set()
    low, metadata, asked = start, "", 0
    offsets = range(start, start + count)
    for _ in range(3):
        tracker = OffsetTracker(low, metadata)
        upto = data.draw(st.integers(0, count))
        in_flight = []
        for offset in offsets[:upto]:
            if offset >= low and tracker.take(offset):
                assert offset not in done
                in_flight.append(offset)
        for offset in data.draw(st.lists(st.sampled_from(in_flight), unique=True)) if in_flight else []:
            assert tracker.acknowledge(offset)
            done.add(offset)
            asked += 1
        assert set(range(start, tracker.low)) <= done
        low, metadata = tracker.low, tracker.metadata()
    assert asked == len(done)


def test_a_commits_text_keeps_to_what_kafka_takes() -> None:
    tracker = OffsetTracker(0)
    for offset in range(20_000):
        tracker.take(offset)
        if offset % 2:
            tracker.acknowledge(offset)
    assert len(tracker.metadata()) < MAX_METADATA
    again = OffsetTracker(tracker.low, tracker.metadata())
    taken = [offset for offset in range(20_000) if again.take(offset)]
    assert set(range(0, 20_000, 2)) <= set(taken)
    assert len(taken) < 20_000 - 300  # it told of some hundreds
