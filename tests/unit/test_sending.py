"""The video in pieces: bounded, in order, and such that base64 of them can be joined."""

from hypothesis import given
from hypothesis import strategies as st

from zoetrope_core.contract import PIECE_BYTES, TEXT_UNIT
from zoetrope_server.sending import VideoSender

LENGTHS = st.lists(st.sampled_from([0, 1, 2, 3, 5, 700, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 1]))


async def sent(lengths, last, unit):
    pieces = []

    async def keep(piece):
        pieces.append(piece)

    sender = VideoSender(keep, unit=unit)
    for number, length in enumerate(lengths):
        await sender.part(bytes([number % 251]) * length)
    await sender.last(b"\xff" * last)
    assert sender.sent == sum(map(len, pieces))
    return pieces


@given(LENGTHS, st.integers(0, 4), st.sampled_from([1, TEXT_UNIT]))
async def test_the_pieces_are_the_video(lengths, last, unit):
    pieces = await sent(lengths, last, unit)
    whole = b"".join(bytes([number % 251]) * length for number, length in enumerate(lengths)) + b"\xff" * last
    assert b"".join(pieces) == whole
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    assert all(len(piece) % unit == 0 for piece in pieces[:-1])


async def test_nothing_waits_where_no_unit_is_to_be_filled():
    assert [len(piece) for piece in await sent([7, 8], 1, 1)] == [7, 8, 1]
    assert [len(piece) for piece in await sent([7, 8], 1, 3)] == [6, 9, 1]
