"""The table of all drills."""

from __future__ import annotations

from drills.cluster_faults import CLUSTER_DRILLS
from drills.gateway_faults import GATEWAY_DRILLS
from drills.lookup_faults import LOOKUP_DRILLS
from drills.mysql_faults import MYSQL_DRILLS
from drills.name_faults import NAME_DRILLS
from drills.reload_faults import RELOAD_DRILLS
from drills.scene import by_name
from drills.seal_faults import SEAL_DRILLS

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
