"""The table of all drills."""

from __future__ import annotations

from tapedeck.drills.cluster_faults import CLUSTER_DRILLS
from tapedeck.drills.gateway_faults import GATEWAY_DRILLS
from tapedeck.drills.lookup_faults import LOOKUP_DRILLS
from tapedeck.drills.mysql_faults import MYSQL_DRILLS
from tapedeck.drills.name_faults import NAME_DRILLS
from tapedeck.drills.reload_faults import RELOAD_DRILLS
from tapedeck.drills.scene import by_name
from tapedeck.drills.seal_faults import SEAL_DRILLS

DRILLS = by_name(
    (
        *(
            *LOOKUP_DRILLS,
            *RELOAD_DRILLS,
            *CLUSTER_DRILLS,
            *MYSQL_DRILLS,
            *NAME_DRILLS,
            *SEAL_DRILLS,
        ),
        *GATEWAY_DRILLS,
    )
)
"""By name, in the order in which --all runs them."""
