"""The `tapedeck` command.

This runs before the slow imports, so that a signal that comes during them ends the command at once.
Without it a Ctrl-C would be an exception out of some import, with a traceback. And process 1 of a
container does not get signals that it has no handler for: a SIGTERM during the start would be lost,
and the container would run until it is killed.
"""

import os
import signal
import sys


def end_at_once(number: int, _: object) -> None:
    """End like a process that the signal kills; a Ctrl-C is answered with a line.

    Commands that start something replace this handler.
    """
    if number == signal.SIGINT:
        os.write(2, b"tapedeck: interrupted\n")
    os._exit(128 + number)


# Only in the command's own process (argv is ["-m"] while `python -m cli` begins), and not where a
# shell started it in the background, with SIGINT ignored.
if (
    os.path.basename(sys.argv[0]) in ("tapedeck", "-m")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, end_at_once)
if sys.argv[1:2] == ["serve"]:
    # A SIGHUP reloads a gateway, and must not end one that starts: it waits until the gateway
    # catches it (`gateway/process/admin_port.py`).
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, end_at_once)
    # The starter may have blocked SIGTERM until here (deploy/docker/Dockerfile): it then waits.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
