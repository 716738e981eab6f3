"""The `tapedeck` command.

This runs before the slow imports. Process 1 of a container does not get signals that it has no
handler for: a SIGTERM during the start would be lost, and the container would run until it is
killed.
"""

import os
import signal


def _end(number: int, _: object) -> None:
    """End like a process that the signal kills. Commands that start something replace this
    handler."""
    os._exit(128 + number)


if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)
    # The starter may have blocked SIGTERM until here (deploy/docker/Dockerfile): it then waits.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
