"""What is wrong with a text, in the words and reasons of the contract; and its entities as they travel."""

from chirp import errors
from chirp.errors import v1 as errorspb
from chirp.tweet import v1 as tweetpb
from services.tweet.text import Analysis, Entity, Finding, Limits, Problem

FIELD = "text"
BYTES_PER_UNIT = 20.4
"""UTF-8 bytes allowed per unit of weight: 5,708 for 280, so that long emoji sequences fit at any limit."""

_REASONS = {
    Problem.BLANK: errorspb.ERROR_REASON_TEXT_BLANK,
    Problem.TOO_LONG: errorspb.ERROR_REASON_TEXT_TOO_LONG,
    Problem.TOO_MANY_BYTES: errorspb.ERROR_REASON_TEXT_TOO_LONG,
    Problem.INVALID_CHARACTER: errorspb.ERROR_REASON_TEXT_INVALID_CHARACTER,
    Problem.TOO_MANY_MENTIONS: errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES,
    Problem.TOO_MANY_HASHTAGS: errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES,
    Problem.TOO_MANY_CASHTAGS: errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES,
    Problem.TOO_MANY_URLS: errorspb.ERROR_REASON_TEXT_TOO_MANY_ENTITIES,
}
_COUNTED = {
    Problem.TOO_MANY_MENTIONS: "mentions",
    Problem.TOO_MANY_HASHTAGS: "hashtags",
    Problem.TOO_MANY_CASHTAGS: "cashtags",
    Problem.TOO_MANY_URLS: "links",
}
_KINDS = {
    "mention": tweetpb.ENTITY_KIND_MENTION,
    "hashtag": tweetpb.ENTITY_KIND_HASHTAG,
    "cashtag": tweetpb.ENTITY_KIND_CASHTAG,
    "url": tweetpb.ENTITY_KIND_URL,
}


def limits(max_weighted_length: int) -> Limits:
    """The limits of a cluster whose tweets have this greatest weighted length."""
    return Limits(max_weighted_length, max_bytes=max(Limits().max_bytes, round(max_weighted_length * BYTES_PER_UNIT)))


def refusal(analysis: Analysis, limits: Limits) -> errors.InvalidArgument:
    """The error for a text that has problems: the first gives the reason, each is a violation of the field."""
    first = analysis.problems[0]
    violations = [errors.FieldViolation(FIELD, _description(each, limits)) for each in analysis.problems]
    error = errors.InvalidArgument(_REASONS[first.problem], f"{FIELD} {violations[0].description}", violations=violations)
    error.metadata = {"field": FIELD, **_metadata(first, analysis, limits)}
    return error


def problems(analysis: Analysis, limits: Limits) -> list[tweetpb.TextProblem]:
    """All that is wrong with a text, for its author."""
    return [
        tweetpb.TextProblem(reason=errors.reason_name(_REASONS[each.problem]), message=f"{FIELD} {_description(each, limits)}")
        for each in analysis.problems
    ]


def entities(found: tuple[Entity, ...]) -> list[tweetpb.TextEntity]:
    """Entities as they travel."""
    return [tweetpb.TextEntity(kind=_KINDS[each.kind], start=each.start, end=each.end, value=each.value) for each in found]


def packed_entities(found: tuple[Entity, ...]) -> bytes:
    """Entities as they are stored: the field Tweet.entities alone, serialised."""
    return tweetpb.Tweet(entities=entities(found)).SerializeToString() if found else b""


def _description(finding: Finding, limits: Limits) -> str:
    """Reads on from the field's name."""
    match finding.problem:
        case Problem.BLANK:
            return "must not be blank"
        case Problem.TOO_LONG:
            return f"has a weighted length of {finding.actual}; at most {finding.maximum} is allowed"
        case Problem.TOO_MANY_BYTES:
            return f"is far longer than the weighted length of {limits.max_weighted_length} that is allowed"
        case Problem.INVALID_CHARACTER:
            return f"has a character at position {finding.position} that a tweet cannot hold"
        case _:
            return f"has {finding.actual} {_COUNTED[finding.problem]}; at most {finding.maximum} are allowed"


def _metadata(finding: Finding, analysis: Analysis, limits: Limits) -> dict[str, str]:
    if finding.problem in (Problem.TOO_LONG, Problem.TOO_MANY_BYTES):
        return {"weighted_length": str(analysis.text.weighted_length), "max": str(limits.max_weighted_length)}
    if finding.problem is Problem.INVALID_CHARACTER:
        return {"position": str(finding.position)}
    if finding.problem in _COUNTED:
        return {"entity": _COUNTED[finding.problem], "count": str(finding.actual), "max": str(finding.maximum)}
    return {}
