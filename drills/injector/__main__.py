"""`python -m drills.injector --port 8474`: the fault injector as a process."""

from __future__ import annotations

import argparse
import sys

from drills.injector.server import run


def main() -> int:
    """Entry point. Exit status 1 if the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m drills.injector")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8474)
    options = parser.parse_args()
    try:
        run(options.host, options.port)
    except OSError as error:
        print(f"the fault injector cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
