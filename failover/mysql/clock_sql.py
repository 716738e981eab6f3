"""MySQL's time as an SQL expression that does not depend on the time zone.

`NOW()` is local time, and `UNIX_TIMESTAMP(NOW())` converts it back by the zone's rules: in the hour
that daylight saving time repeats, or leaves out, the result is another time. `UTC_TIMESTAMP()` has
no zone, and the difference of two such times is only arithmetic (MySQL manual, "Date and Time
Functions"). MariaDB 10.11 and MySQL 8.4 and 9 have both.
"""

from __future__ import annotations

_EPOCH = "'1970-01-01'"

MILLISECONDS = f"TIMESTAMPDIFF(MICROSECOND,{_EPOCH},UTC_TIMESTAMP(6)) DIV 1000"
"""Milliseconds since 1970 UTC, when the statement began."""
