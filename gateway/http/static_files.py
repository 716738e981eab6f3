"""The files of a page, with strict security headers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from gateway.http.errors import Refusal
from gateway.http.messages import Response

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "md": "text/plain; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE = "index.html"
HEADERS = {
    # Node names and states may be any text: only our own files may run or load.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Pages:
    """The files of folders of a package, read once, so that no request waits for a disk."""

    def __init__(self, package: str, folders: Sequence[str] = ("web",)) -> None:
        self._files = {
            file.name: file.read_bytes()
            for folder in folders
            for file in resources.files(package).joinpath(folder).iterdir()
            if _ending(file.name) in _TYPES
        }

    def page(self) -> Response:
        """The page itself, `index.html`."""
        return self._answer(_PAGE)

    def part(self, name: str) -> Response:
        """A part of the page: a style sheet, a script, an image. Refuses other names with 404."""
        if name not in self._files or name == _PAGE:
            raise Refusal(404, "There is no such file.")
        return self._answer(name)

    def text(self, name: str) -> str:
        """The text of a file, such as a template."""
        return self._files[name].decode()

    def _answer(self, name: str) -> Response:
        return Response(200, self._files[name], HEADERS, _TYPES[_ending(name)])


def _ending(name: str) -> str:
    return name.rpartition(".")[2]
