"""The shipped tapedeck.yml has every value, with its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import config
from config.load import parse
from config.model import Sections

SHIPPED = Path(config.__file__).parent / "tapedeck.yml"
MINE = {("lookup", "servers"), ("mysql", "hosts"), ("mysql", "user")}
SECRET = ("token", "key", "password", "username", "_file")


def document() -> dict[str, Any]:
    loaded = yaml.safe_load(SHIPPED.read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_the_shipped_configuration_is_accepted() -> None:
    assert parse(document()).mode == "local"


def test_every_value_in_the_shipped_configuration_is_the_default() -> None:
    shipped = document()
    least = {
        "lookup": {"servers": shipped["lookup"]["servers"]},
        "mysql": {"hosts": shipped["mysql"]["hosts"], "user": shipped["mysql"]["user"]},
    }

    assert parse(shipped) == parse(least)


def test_the_shipped_configuration_names_every_value_that_is_no_secret() -> None:
    shipped = document()
    for section, field in Sections.model_fields.items():
        values = getattr(field.annotation, "model_fields", None)
        if values is None:
            continue
        for name in values:
            if name != "token_days" and any(part in name for part in SECRET):
                continue
            assert name in shipped[section], f"{section}.{name} is missing"
