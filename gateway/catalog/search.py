"""Searches for mixes: parses what a client asks for, and builds the SQL statement. No I/O.

The smart ids, 8tracks' own: docs/clients.md.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

from gateway.http.errors import Refusal
from gateway.http.parameters import whole_number

FOUND = 1000
"""Most mixes that one search returns, to limit its cost."""
TEXT = 200
"""Most characters of a search, or of a smart id."""
WORDS = 8
TAGS = 5
FEW_TAGS = rf"^([\s,+]*[^\s,+][^,+]*([,+]|$)){{0,{TAGS}}}[\s,+]*$"
"""What `tags` looks like with at most TAGS tags in it; the description of the API says it too."""
TAG_LENGTH = 255
"""Most characters of a tag in a search; mixes may have longer tags."""

ORDERS = {
    "hot": "i.heat DESC, i.mix_id DESC",
    "popular": "i.plays DESC, i.mix_id DESC",
    "recent": "i.mix_id DESC",
}
_MATCH = "MATCH (i.words) AGAINST (%s IN BOOLEAN MODE)"
# InnoDB does not index shorter words (innodb_ft_min_token_size) or these ones
# (INFORMATION_SCHEMA.INNODB_FT_DEFAULT_STOPWORD): a search that requires one finds nothing.
_SHORTEST, _LONGEST = 3, 84
_STOPWORD = re.compile(
    "about|are|com|for|from|how|that|the|this|was|what|when|where|who|will|with|und|www"
)


class Wanted(NamedTuple):
    """A search. Mixes must match all its conditions.

    Attributes:
        tags: in the form that `tag_of` returns.
        user_id: of the author; 0 for any.
        like: the id of a mix to share tags with; 0 for none. With it all other fields are empty.
        sort: of ORDERS; "" for the best match.
    """

    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    user_id: int = 0
    like: int = 0
    sort: str = "hot"


def tag_of(text: str) -> str:
    """A tag in the form that is stored and compared: small letters, single spaces."""
    return " ".join(text.lower().split())


def tags_of(text: str, between: str = ",") -> tuple[str, ...]:
    """The tags of a list, each once, in order."""
    tags = (tag_of(part) for part in re.split(between, text))
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def words_of(text: str) -> tuple[str, ...]:
    """The words of a search that InnoDB indexes.

    >>> words_of("The Blues, of New Orleans")
    ('blues', 'new', 'orleans')
    """
    words = dict.fromkeys(re.findall(r"\w+", text.lower()))
    fit = (w for w in words if _SHORTEST <= len(w) <= _LONGEST and not _STOPWORD.fullmatch(w))
    return tuple(fit)[:WORDS]


def asked(q: str, tags: str, sort: str | None) -> Wanted | None:
    """The search in the parameters of /mixes; None if InnoDB indexes none of the words. Refuses
    wrong parameters with 400.
    """
    if len(q) > TEXT or len(tags) > TEXT:
        raise Refusal(400, f"q and tags have at most {TEXT} characters each.")
    if sort is not None and sort not in ORDERS:
        raise Refusal(400, f"sort is {', '.join(ORDERS)}, or is left out.")
    if not re.search(FEW_TAGS, tags):
        raise Refusal(400, f"At most {TAGS} tags can be looked for at once.")
    words = words_of(q)
    if q.strip() and not words:
        return None
    return Wanted(words, tags_of(tags, "[,+]"), sort=sort or ("" if words else "hot"))


def smart(smart_id: str) -> Wanted | None:
    """The search in a smart id; None as for `asked`. Refuses any other with 404."""
    kind, _, rest = smart_id[: TEXT + 1].partition(":")
    what, _, sort = rest.rpartition(":") if kind != "all" else ("", "", rest)
    if sort and sort not in ORDERS:
        what, sort = rest, ""
    if len(smart_id) <= TEXT and (what or kind == "all") and (sort or kind != "all"):
        sort = sort or "hot"
        if kind == "all":
            return Wanted(sort=sort)
        if kind == "tags" and 0 < len(tags := tags_of(_plain(what), r"\+")) <= TAGS:
            return Wanted(tags=tags, sort=sort)
        if kind == "keyword":
            return asked(_plain(what), "", sort)
        # A number that is no id makes no mix set either: 404.
        if kind in ("dj", "similar"):
            with contextlib.suppress(Refusal):
                number = whole_number(what, "The id")
                return Wanted(user_id=number, sort=sort) if kind == "dj" else Wanted(like=number)
    raise Refusal(
        404,
        f"There is no such mix set: they are all, tags:a+b (at most {TAGS}), keyword:words, "
        f"dj:USER_ID, each with :{', :'.join(ORDERS)} or without, and similar:MIX_ID.",
    )


def _plain(text: str) -> str:
    return re.sub("__|_|\\^", lambda m: {"_": " ", "__": "_", "^": "."}[m[0]], text)


def statement(wanted: Wanted) -> tuple[str, tuple[Any, ...]]:
    """The SQL that returns the ids of the first FOUND mixes in order, and its arguments."""
    if wanted.like:
        similar = (
            "SELECT o.mix_id FROM mix_tags t JOIN mix_tags o ON o.tag = t.tag AND o.mix_id <> %s"
            " JOIN mix_index i ON i.mix_id = o.mix_id WHERE t.mix_id = %s"
            " GROUP BY o.mix_id, i.plays"
            f" ORDER BY COUNT(*) DESC, i.plays DESC, o.mix_id LIMIT {FOUND}"
        )
        return similar, (wanted.like, wanted.like)
    sql, where = "SELECT i.mix_id FROM mix_index i", []
    args: list[Any] = []
    for n, tag in enumerate(wanted.tags):
        sql += f" JOIN mix_tags t{n} ON t{n}.mix_id = i.mix_id AND t{n}.tag = %s"
        args.append(tag)
    words = " ".join(f"+{word}" for word in wanted.words)
    if words:
        where.append(_MATCH)
        args.append(words)
    if wanted.user_id:
        where.append("i.user_id = %s")
        args.append(wanted.user_id)
    if where:
        sql += f" WHERE {' AND '.join(where)}"
    order = ORDERS.get(wanted.sort, f"{_MATCH} DESC, i.mix_id DESC")
    if wanted.sort not in ORDERS:
        args.append(words)
    return f"{sql} ORDER BY {order} LIMIT {FOUND}", tuple(args)
