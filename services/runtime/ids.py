"""What anybody may read off a Snowflake id: 41 bits of milliseconds since 2024-01-01T00:00Z, 10 of worker, 12 of sequence."""

EPOCH_MS = 1_704_067_200_000
"""2024-01-01T00:00Z as unix time in milliseconds."""
TIME_SHIFT = 22
"""Bits of worker and sequence below the time."""


def time_ms(snowflake: int) -> int:
    """When an id was issued, as unix time in milliseconds."""
    return (snowflake >> TIME_SHIFT) + EPOCH_MS


def first_at(unix_ms: int) -> int:
    """The least id that can be issued at a moment: every id issued before it is smaller."""
    return max(0, unix_ms - EPOCH_MS) << TIME_SHIFT


def span(milliseconds: int) -> int:
    """What ids grow by in a time."""
    return milliseconds << TIME_SHIFT
