"""Pure: numbers of followers in buckets, so that nobody can tell single followers by them."""

_STEPS = (1, 2, 5)


def lower_bound(count: int) -> int:
    """The greatest of 0, 1, 2, 5, 10, 20, 50, … that is not above the count."""
    if count <= 0:
        return 0
    power = 10 ** (len(str(count)) - 1)
    return max(step * power for step in _STEPS if step * power <= count)
