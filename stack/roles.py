"""What is kept of the pair while its servers do not run: a small file, replaced as a whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Known:
    """What outlives the processes.

    Attributes:
        primary: the name of the server that is (or was last) writable.
        generation: its fencing generation.
        redundant: see `pair_rules`.
    """

    primary: str
    generation: int = 1
    redundant: bool = False

    @classmethod
    def read(cls, path: Path) -> Known:
        """What the file says; a new pair's where there is none, or where it is damaged."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return cls(primary="mysql1")

    def change(self, path: Path, **changes: str | int | bool) -> None:
        """Take on these values, and write them down."""
        for name, value in changes.items():
            setattr(self, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(asdict(self)) + "\n")
        os.replace(new, path)
