"""Pure: a page as a join of bytes that were encoded once.

Protobuf fields may be written in any order and a message is the concatenation of its fields, so a TimelineItem is
tweet field + author field, and a page is framed items + whatever else the page says.
"""

_ONE_BYTE = tuple(bytes([length]) for length in range(0x80))


def varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    if number < 0x80:
        return _ONE_BYTE[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + varint(number >> 7)


def first_field(payload: bytes) -> bytes:
    """A message as field 1 of the message around it."""
    return b"\x0a" + varint(len(payload)) + payload


def second_field(payload: bytes) -> bytes:
    """A message as field 2 of the message around it."""
    return b"\x12" + varint(len(payload)) + payload


def item(tweet_field: bytes, author_field: bytes) -> bytes:
    """An item as an element of field 1 of its page."""
    return b"\x0a" + varint(len(tweet_field) + len(author_field)) + tweet_field + author_field
