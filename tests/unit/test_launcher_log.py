"""What is passed on of Triton's output."""

import io

from zoetrope_server.launcher.triton_log import LONGEST, LineFilter, cut_lines


def passed(lines, clock=lambda: 0.0):
    kept = LineFilter(clock)
    return [each for line in lines for each in kept.take(line)] + kept.rest()


def test_different_lines_all_pass():
    lines = [b"a\n", b"b\n", b"a\n", b"\n", b"no end"]
    assert passed(lines) == lines


def test_a_run_of_equal_lines_is_one_line_and_a_count():
    assert passed([b"a\n"] * 1000 + [b"b\n"]) == [b"a\n", b"(the line before came 999 more times)\n", b"b\n"]
    assert passed([b"a\n"] * 3) == [b"a\n", b"(the line before came 2 more times)\n"]
    assert passed([b"a\n"] * 2) == [b"a\n"] * 2, "not longer than what it stands for"


def test_the_time_of_a_line_does_not_count():
    lines = [b"E1127 21:30:22.%06d   23449 x.cc:1] no\n" % number for number in range(100)]
    assert passed(lines) == [lines[0], b"(the line before came 99 more times)\n"]


def test_a_run_that_goes_on_is_told_of_every_ten_seconds():
    now = [0.0]
    kept = LineFilter(lambda: now[0])
    written = []
    for _ in range(3000):
        now[0] += 0.01
        written += kept.take(b"a\n")
    assert written[0] == b"a\n" and 3 <= len(written) <= 4
    assert sum(int(line.split()[4]) for line in [*written[1:], *kept.rest()]) == 2999


def test_long_lines_are_cut():
    text = b"x" * (LONGEST - 1) + b"\n" + b"y" * (3 * LONGEST) + b"\nshort\nz"
    first, second, third, fourth = cut_lines(io.BytesIO(text))
    assert (first, third, fourth) == (b"x" * (LONGEST - 1) + b"\n", b"short\n", b"z")
    assert second == b"y" * LONGEST + b" (%d bytes more)\n" % (2 * LONGEST + 1)
    assert list(cut_lines(io.BytesIO(b"y" * LONGEST))) == [b"y" * LONGEST]
