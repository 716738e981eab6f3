"""The `tapedeck` command.

Here is what must come before all that is slow to import. Process 1 (of a container) does not get a
signal that it has no handler for: a SIGTERM to a gateway that starts would be lost, and the
container would run on until it is killed.
"""

import os
import signal


def _end(number: int, _: object) -> None:
    """End as a process that the signal kills: nothing was begun yet. Commands that begin something
    put handlers of their own in this one's place."""
    os._exit(128 + number)


if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)
    # What starts us may block it until here (deploy/docker/Dockerfile): it then waits.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
