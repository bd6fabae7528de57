"""The Pareto front against brute force, with ties, holes and intervals."""

from hypothesis import given
from hypothesis import strategies as st

from diffsweep.analysis import pareto

# Few distinct values, so that ties and duplicates are common.
VALUE = st.one_of(st.none(), st.integers(0, 5).map(float))
NAN = float("nan")


def points(objectives: int):
    return st.lists(st.tuples(*[VALUE] * objectives), max_size=12)


def brute_force(given_points):
    """By the definition: nobody is at least as good everywhere and better somewhere."""

    def beats(a, b):
        return None not in a and all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    return [None not in p and not any(beats(other, p) for other in given_points) for p in given_points]


@given(points(2))
def test_front_in_two_objectives(given_points):
    assert pareto.front(given_points) == brute_force(given_points)


@given(points(3))
def test_front_in_three_objectives(given_points):
    assert pareto.front(given_points) == brute_force(given_points)


def test_a_hole_is_neither_on_the_front_nor_beats_anybody():
    assert pareto.front([(1.0, None), (2.0, 2.0), (NAN, 0.0)]) == [False, True, False]
    assert pareto.front([]) == []


def test_equal_points_share_the_front():
    assert pareto.front([(1.0, 2.0), (1.0, 2.0), (1.0, 3.0)]) == [True, True, False]


def test_surely_beaten_only_beyond_the_intervals():
    fast, slow, unsure = ((1.0, 1.1), (5.0, 6.0)), ((2.0, 2.2), (7.0, 8.0)), ((1.05, 2.0), (5.5, 9.0))
    assert pareto.surely_dominated([fast, slow, unsure]) == [False, True, False]


INTERVAL = st.tuples(VALUE, VALUE).map(lambda ends: tuple(sorted(ends)) if None not in ends else ends)


@given(st.lists(st.tuples(INTERVAL, INTERVAL), max_size=12))
def test_surely_beaten_by_brute_force(intervals):
    def beats(a, b) -> bool:
        worse = any(
            high is None or low is None or not (high < low or exact_tie((low_a, high), (low, high_b)))
            for (low_a, high), (low, high_b) in zip(a, b, strict=True)
        )
        better = any(
            high is not None and low is not None and high < low for (_, high), (low, _) in zip(a, b, strict=True)
        )
        return better and not worse

    def exact_tie(a, b) -> bool:
        return None not in (*a, *b) and a[0] == a[1] == b[0] == b[1]

    expected = [any(beats(other, mine) for other in intervals) for mine in intervals]
    assert pareto.surely_dominated(intervals) == expected


def test_a_missing_end_decides_nothing():
    fast, unknown = ((1.0, 1.1), (5.0, 6.0)), ((2.0, 2.2), (None, None))
    assert pareto.surely_dominated([fast, unknown]) == [False, False]


def test_an_exact_tie_does_not_protect():
    """Two variants with the very same images have one FID; the slower one is surely beaten."""
    assert pareto.surely_dominated([((1.0, 1.1), (5.0, 5.0)), ((2.0, 2.2), (5.0, 5.0))]) == [False, True]
    assert pareto.surely_dominated([((1.0, 1.0), (5.0, 5.0)), ((1.0, 1.0), (5.0, 5.0))]) == [False, False]


@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 3))] * 2), max_size=8))
def test_who_is_surely_beaten_is_not_on_the_front_of_any_truth(boxes):
    """Whatever values inside the intervals are the true ones: a surely beaten point is beaten."""
    intervals = [[(float(low), float(low + width)) for low, width in box] for box in boxes]
    beaten = pareto.surely_dominated(intervals)
    for side in (0, 1):
        truth = [tuple(interval[side] for interval in box) for box in intervals]
        for is_beaten, on_front in zip(beaten, pareto.front(truth), strict=True):
            assert not (is_beaten and on_front)
