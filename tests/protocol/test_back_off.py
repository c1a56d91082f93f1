"""The delay between attempts at what keeps failing."""

from protocol.back_off import back_off


def test_the_delay_doubles_up_to_the_longest():
    assert [back_off(failures) for failures in (0, 1, 2, 6, 5000)] == [1, 2, 4, 60, 60]
    assert [back_off(failures, 0.2, 5) for failures in (0, 1, 4, 5)] == [0.2, 0.4, 3.2, 5]


def test_the_first_delay_is_at_most_the_longest():
    assert back_off(0, first=10, longest=1) == 1
