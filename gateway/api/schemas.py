"""The schemas of all bodies, as JSON Schema (2020-12) for the OpenAPI description."""

from __future__ import annotations

from typing import Any

import msgspec

from failover.mysql.shown import MySQL
from gateway.api.admin_bodies import Drained, Happened, Overview, Readiness
from gateway.player.responses import (
    API_VERSION,
    MixReply,
    MixSet,
    SignedIn,
    TagReply,
    TrackReply,
    UserReply,
)
from gateway.reload.compare import Outcome
from gateway.support_search import Found
from sharding.partitions.shown import BelievedClock, Partition
from sharding.shown import Outline, Ring, Where

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_FLAG: Json = {"type": "boolean"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_ID: Json = {"type": "integer", "minimum": 1}
_SENTENCES: Json = {"type": "array", "items": _TEXT, "minItems": 1}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _object(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _envelope(
    more: Json | None = None,
    *,
    status: str = "^200 OK$",
    errors: Json | None = None,
    notices: Json | None = None,
) -> Json:
    return _object(
        {
            "status": {"type": "string", "pattern": status},
            "errors": errors or {"type": "null"},
            "notices": notices or {"anyOf": [{"type": "null"}, _SENTENCES]},
            "logged_in": _FLAG,
            "api_version": {"const": API_VERSION},
            **(more or {}),
        }
    )


def _schemas_of(*shapes: type[msgspec.Struct]) -> Json:
    """The schemas of structs and of the structs in their fields."""
    schemas = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")[1]
    for schema in schemas.values():
        # Of a docstring only the sentence: properties describe themselves.
        if "description" in schema:
            schema["description"] = schema["description"].partition("\n")[0]
    return schemas


def _closed(schemas: Json) -> Json:
    """The same without further fields, and with all fields required that may not be UNSET."""
    for schema in schemas.values():
        schema["additionalProperties"] = False
        schema["required"] = [n for n in schema["properties"] if n != "plays_count"]
    return schemas


_PLACE: Json = {
    **dict.fromkeys(("page", "per_page"), _ID),
    **dict.fromkeys(("total_entries", "total_pages"), _COUNT),
    **{name: {"type": ["integer", "null"]} for name in ("next_page", "previous_page")},
}

SCHEMAS: Json = {
    **_closed(_schemas_of(TrackReply, MixReply, MixSet, TagReply, UserReply, SignedIn)),
    "Set": _object(
        {
            **dict.fromkeys(("at_beginning", "at_last_track", "at_end", "skip_allowed"), _FLAG),
            "track": {"anyOf": [_ref("TrackReply"), {"type": "object", "maxProperties": 0}]},
        }
    ),
    "NewSet": _envelope({"play_token": _TEXT}),
    "Playing": _envelope({"set": _ref("Set")}),
    "Done": _envelope(),
    "Refused": _envelope(status="^403 Forbidden$", notices=_SENTENCES),
    "TracksPlayed": _envelope({"tracks": _list(_ref("TrackReply"))}),
    "NextMix": _envelope({"next_mix": _ref("MixReply")}),
    "OneMix": _envelope({"mix": _ref("MixReply")}),
    "OneMixSet": _envelope({"mix_set": _ref("MixSet"), **_PLACE}),
    "Mixes": _envelope({"mix_set": _ref("MixSet"), "mixes": _list(_ref("MixReply")), **_PLACE}),
    "Tags": _envelope({"tags": _list(_ref("TagReply")), **_PLACE}),
    "OneUser": _envelope({"user": _ref("UserReply")}),
    "Session": _envelope({"user": _ref("SignedIn"), "user_token": _TEXT}),
    "Error": _envelope(status="^[45][0-9]{2} .+$", errors=_SENTENCES),
    "PlainError": _object(
        {"status": {"type": "string", "pattern": "^[45][0-9]{2} .+$"}, "errors": _SENTENCES}
    ),
    "AnyError": {"anyOf": [_ref("Error"), _ref("PlainError")]},
    "State": {"type": "object", "description": "Any JSON object."},
    "Stored": _object({"status": {"enum": ["200 OK", "201 Created"]}}),
    "Health": _object({"status": {"const": "ok"}}),
    **_schemas_of(
        *(Readiness, Ring, Outline, MySQL, Where, Found, Overview, Partition, BelievedClock),
        *(Drained, Happened, Outcome),
    ),
    "Partitions": _list(_ref("Partition")),
    **dict.fromkeys(("Events", "Guide", "Metrics", "Page", "PagePart", "Picture"), _TEXT),
    "Happenings": _list(_ref("Happened")),
    "Stats": {"type": "object", "description": "By metric: a value, or values with labels."},
    "Reloaded": _ref("Outcome"),
    "Description": {"type": "object"},
}
