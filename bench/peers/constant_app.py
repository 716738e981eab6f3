"""The same constant answer from an aiohttp application with one route: aiohttp in its usual use,
without any work.
"""

from __future__ import annotations

from bench.peers.constant import HERE, handle
from bench.peers.shared import serve

if __name__ == "__main__":
    serve(handle, HERE.port)
