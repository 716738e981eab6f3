"""The shapes of all bodies, as JSON Schema (2020-12) for the OpenAPI description."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.player.responses import (
    API_VERSION,
    MixReply,
    MixSet,
    SignedIn,
    TagReply,
    TrackReply,
    UserReply,
)

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_FLAG: Json = {"type": "boolean"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_ID: Json = {"type": "integer", "minimum": 1}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_SENTENCES: Json = {"type": "array", "items": _TEXT, "minItems": 1}
_DAY: Json = {"type": "string", "pattern": "^[0-9]{8}$"}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    properties: Json, *, open_to_more: bool = False, optional: tuple[str, ...] = ()
) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": open_to_more,
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


def _of(*shapes: type[msgspec.Struct]) -> Json:
    """The schemas of structs, with those that they hold: exactly their fields, and all of them but
    those that may be UNSET."""
    _, found = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    for schema in found.values():
        schema["additionalProperties"] = False
        schema["required"] = [n for n in schema["properties"] if n != "plays_count"]
    return found


_PLACE: Json = {
    **dict.fromkeys(("page", "per_page"), _ID),
    **dict.fromkeys(("total_entries", "total_pages"), _COUNT),
    **{name: {"type": ["integer", "null"]} for name in ("next_page", "previous_page")},
}

SCHEMAS: Json = {
    **_of(TrackReply, MixReply, MixSet, TagReply, UserReply, SignedIn),
    "Set": _object(
        {
            "at_beginning": _FLAG,
            "at_last_track": _FLAG,
            "at_end": _FLAG,
            "skip_allowed": _FLAG,
            "track": {"anyOf": [_ref("TrackReply"), {"type": "object", "maxProperties": 0}]},
        }
    ),
    "NewSet": _envelope({"play_token": _TEXT}),
    "Playing": _envelope({"set": _ref("Set")}),
    "Done": _envelope(),
    "Refused": _envelope(status="^403 Forbidden$", notices=_SENTENCES),
    "TracksPlayed": _envelope({"tracks": {"type": "array", "items": _ref("TrackReply")}}),
    "NextMix": _envelope({"next_mix": _ref("MixReply")}),
    "OneMix": _envelope({"mix": _ref("MixReply")}),
    "OneMixSet": _envelope({"mix_set": _ref("MixSet"), **_PLACE}),
    "Mixes": _envelope(
        {
            "mix_set": _ref("MixSet"),
            "mixes": {"type": "array", "items": _ref("MixReply")},
            **_PLACE,
        }
    ),
    "Tags": _envelope({"tags": {"type": "array", "items": _ref("TagReply")}, **_PLACE}),
    "OneUser": _envelope({"user": _ref("UserReply")}),
    "Session": _envelope({"user": _ref("SignedIn"), "user_token": _TEXT}),
    "Picture": _TEXT,
    "Error": _envelope(status="^[45][0-9]{2} .+$", errors=_SENTENCES),
    "PlainError": _object(
        {"status": {"type": "string", "pattern": "^[45][0-9]{2} .+$"}, "errors": _SENTENCES}
    ),
    "AnyError": {"anyOf": [_ref("Error"), _ref("PlainError")]},
    "State": {"type": "object", "description": "Any JSON object."},
    "Stored": _object({"status": {"enum": ["200 OK", "201 Created"]}}),
    "Health": _object({"status": {"const": "ok"}}),
    "Readiness": _object(
        {
            "status": {"enum": ["ready", "degraded", "unavailable", "draining"]},
            "reasons": {"type": "array", "items": _TEXT},
            "causes": {"type": "array", "items": _TEXT},
        }
    ),
    "Ring": _object(
        {
            "generation": {"type": "integer"},
            "nodes": {
                "type": "array",
                "items": _object(
                    {
                        "name": _TEXT,
                        "address": _TEXT,
                        "weight": _ID,
                        "share": {"type": "number", "minimum": 0, "maximum": 1},
                        "state": {"enum": ["live", "ejected"]},
                        "since": _TEXT_OR_NULL,
                        "reason": _TEXT_OR_NULL,
                        "next_probe": _TEXT_OR_NULL,
                        "failures": _COUNT,
                        "capacity": {"type": ["object", "null"]},
                    },
                    open_to_more=True,
                    optional=("capacity",),
                ),
            },
        },
        open_to_more=True,
    ),
    "Outline": _object(
        {
            name: {"type": "array", "items": _TEXT_OR_NULL, "description": "Node names."}
            for name in ("owners", "serving")
        }
    ),
    "MySQL": _object(
        {
            "primary": _TEXT_OR_NULL,
            "generation": _COUNT,
            "engine": {**_TEXT_OR_NULL, "description": "the primary's, with its version"},
            "redundant": {
                "type": ["boolean", "null"],
                "description": "whether another host has what is acknowledged; null: not known",
            },
            "redundancy": {**_TEXT_OR_NULL, "description": "why"},
            "split": _FLAG,
            "lost_for": {"type": ["number", "null"], "description": "seconds"},
            "problem": _TEXT_OR_NULL,
            "waiting": _COUNT,
            "hosts": {
                "type": "array",
                "items": _object(
                    {
                        "address": _TEXT,
                        "role": {"enum": ["primary", "standby", "fenced", "unknown"]},
                        "generation": {"type": ["integer", "null"]},
                        "error": _TEXT_OR_NULL,
                    },
                    open_to_more=True,
                ),
            },
        },
        open_to_more=True,
    ),
    "Where": _object(
        {
            "user_id": _ID,
            "playlist_id": _ID,
            "lookup_key": _TEXT,
            "owner": _TEXT,
            "order": {"type": "array", "items": _TEXT},
            "hints": {
                "type": "array",
                "items": _object(
                    {
                        "node": _TEXT,
                        "outcome": {"enum": ["day", "miss", "garbage", "unavailable"]},
                        "day": _TEXT_OR_NULL,
                    },
                    open_to_more=True,
                ),
            },
            "state": {
                "anyOf": [
                    {"type": "null"},
                    _object(
                        {
                            "partition": _TEXT,
                            "day": _DAY,
                            "version": _ID,
                            "owner": {"enum": ["player", "states API"]},
                            "body": _TEXT,
                        },
                        open_to_more=True,
                    ),
                ]
            },
        },
        open_to_more=True,
    ),
    "Overview": _object(
        {
            "at": {"type": "number"},
            "gateway": _TEXT,
            "version": _TEXT,
            "status": {"enum": ["ready", "degraded", "unavailable", "draining"]},
            "since": {"type": ["number", "null"]},
            "reasons": {"type": "array", "items": _TEXT},
            "workers": _COUNT,
            "requests": {"type": "number", "description": "a second"},
            "failing": {"type": "number", "description": "a second"},
            "latency": {
                "type": "array",
                "items": {"type": ["number", "null"]},
                "description": "median, p95 and p99, milliseconds",
            },
            "out": {"type": "array", "items": _TEXT},
            "generation": {"type": ["integer", "null"]},
            "primary": _TEXT_OR_NULL,
        },
        open_to_more=True,
    ),
    "Page": _TEXT,
    "PagePart": _TEXT,
    "Events": _TEXT,
    "Partitions": {
        "type": "array",
        "items": _object(
            {
                "day": _DAY,
                "rows": _COUNT,
                "bytes": _COUNT,
                "drops_on": _DAY,
                "sealed": {
                    "type": "boolean",
                    "description": "its filter is there: loads read it only for keys that it may"
                    " have",
                },
                "filter_bytes": _COUNT,
                "in_vain": {
                    **_COUNT,
                    "description": "how often this gateway read it for a key that was not there,"
                    " because its filter did not rule the key out",
                },
                "foreign": {
                    "type": "array",
                    "items": _TEXT,
                    "description": "tables that have a partition's name and are not Tapedeck's:"
                    " never read, written or dropped; the same list in each item",
                },
            },
            open_to_more=True,
        ),
    },
    "BelievedClock": _object(
        {"was_in_doubt": {"type": "boolean"}, "mysql_time": _TEXT}, open_to_more=True
    ),
    "Stats": {"type": "object", "description": "By metric: a value, or values with labels."},
    "Metrics": _TEXT,
    "Reloaded": _object(
        {
            "changed": {"type": "array", "items": _TEXT},
            "needs_restart": {"type": "array", "items": _TEXT},
        },
        open_to_more=True,
    ),
    "Description": {"type": "object"},
}
