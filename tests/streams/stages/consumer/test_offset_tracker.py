"""What of a Kafka partition is done, and the text that a commit carries of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.stages.consumer.offset_tracker import MOST_TEXT, Marks


@given(st.integers(0, 50), st.data())
def test_the_low_water_mark_is_the_first_message_in_hand(start: int, data: st.DataObject) -> None:
    marks = Marks(start)
    offsets = sorted(data.draw(st.sets(st.integers(start, start + 60), max_size=30)))
    for offset in offsets:
        marks.take(offset)
    left = set(offsets)
    for offset in data.draw(st.permutations(offsets)):
        assert marks.acknowledge(offset)
        assert not marks.acknowledge(offset)
        left.discard(offset)
        assert marks.low == min(left, default=marks.position)
    assert marks.low == (offsets[-1] + 1 if offsets else start)


@given(st.integers(0, 50), st.integers(1, 400), st.data())
def test_a_commit_tells_what_is_done_beyond_it(start: int, count: int, data: st.DataObject) -> None:
    """Over several lives: each takes some messages, finishes some of them in any order, and commits."""
    done: set[int] = set()
    low, text, asked = start, "", 0
    offsets = range(start, start + count)
    for _ in range(3):
        marks = Marks(low, text)
        upto = data.draw(st.integers(0, count))
        in_hand = []
        for offset in offsets[:upto]:
            if offset >= low and marks.take(offset):
                assert offset not in done
                in_hand.append(offset)
        for offset in data.draw(st.lists(st.sampled_from(in_hand), unique=True)) if in_hand else []:
            assert marks.acknowledge(offset)
            done.add(offset)
            asked += 1
        assert set(range(start, marks.low)) <= done
        low, text = marks.low, marks.text()
    assert asked == len(done)


def test_a_commits_text_keeps_to_what_kafka_takes() -> None:
    marks = Marks(0)
    for offset in range(20_000):
        marks.take(offset)
        if offset % 2:
            marks.acknowledge(offset)
    assert len(marks.text()) < MOST_TEXT
    again = Marks(marks.low, marks.text())
    taken = [offset for offset in range(20_000) if again.take(offset)]
    assert set(range(0, 20_000, 2)) <= set(taken)
    assert len(taken) < 20_000 - 300  # it told of some hundreds
