"""What a signal meets that comes while a command starts."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_slow_is_imported_before_a_signal_is_taken() -> None:
    code = "import sys; before = {*sys.modules}; import cli; print(*{*sys.modules} - before)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(ran.stdout.split())
    assert "signal" in loaded
    foreign = {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"cli"}
    assert len(loaded) <= 20, f"each takes a moment in which a SIGTERM is lost: {loaded}"
