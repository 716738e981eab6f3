"""The pictures of mixes: the catalog's, or a drawn one."""

from __future__ import annotations

from config.model import Sections
from gateway.catalog.model import Card
from gateway.http.router import Call
from gateway.http.xml_answer import xml_text

LARGEST = 1024
"""Most pixels of a drawn picture's side."""
SIZES = {
    "sq56": 56,
    "sq100": 100,
    "sq133": 133,
    "max133w": 133,
    "max200": 200,
    "sq250": 250,
    "sq500": 500,
    "max1024": LARGEST,
    "original": LARGEST,
}
"""8tracks' names of sizes, in pixels."""


def base_url(call: Call, config: Sections) -> str:
    """The URL under which the client reaches this gateway; empty if it sent no Host."""
    if config.player.public_url is not None:
        return config.player.public_url.rstrip("/")
    host = call.request.headers.get("Host")
    scheme = "http" if config.gateway.tls_certificate_file is None else "https"
    return f"{scheme}://{host}" if host else ""


def cover_urls(card: Card, base: str) -> dict[str, str]:
    """The URLs of a mix's picture by the names of SIZES; those of a drawn one begin with `base`."""
    cover = card.cover_url or f"{base}/mixes/{card.id}/cover.svg?size={{size}}"
    return {name: cover.replace("{size}", str(size)) for name, size in SIZES.items()}


def draw_cover(card: Card, size: int) -> bytes:
    """A picture for a mix that has none, as SVG: two reels, in a colour from the mix's id."""
    hue = card.id * 137 % 360
    initial = xml_text(card.name[:1].upper())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" '
        f'viewBox="0 0 100 100"><rect width="100" height="100" fill="hsl({hue} 45% 32%)"/>'
        f'<g fill="none" stroke="hsl({hue} 60% 75%)" stroke-width="7">'
        '<circle cx="28" cy="66" r="16"/><circle cx="72" cy="66" r="16"/><path d="M28 86h44"/></g>'
        '<text x="50" y="40" font-family="sans-serif" font-size="36" text-anchor="middle" '
        f'fill="#fff">{initial}</text></svg>'
    ).encode()
