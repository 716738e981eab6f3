"""The protocol's rules in the store package's docstring are those that the model switches off."""

from __future__ import annotations

import re
from pathlib import Path

import sharding.store

WORDS = Path(__file__).parents[1] / "model" / "protocol_words.py"


def test_the_store_package_describes_exactly_the_rules_of_the_model() -> None:
    body = WORDS.read_text().partition("class Rules:")[2].partition("\n\n\n")[0]
    rules = set(re.findall(r"^    (\w+): ", body, re.MULTILINE))
    told = set(re.findall(r"\[(\w+)[\] ]", sharding.store.__doc__ or ""))

    assert len(rules) > 40
    assert told == rules
