"""The same constant from an aiohttp application with one route: how aiohttp is used, and before
anything is done.
"""

from __future__ import annotations

from bench.peers.constant import HERE, handle
from bench.peers.shared import serve

if __name__ == "__main__":
    serve(handle, HERE.port)
