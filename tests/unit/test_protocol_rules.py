"""The protocol's rules, as the store package tells them, are those that the model switches off."""

from __future__ import annotations

import re
from pathlib import Path

import sharding.store

WORDS = Path(__file__).parents[1] / "model" / "protocol_words.py"


def test_each_rule_of_the_model_is_told_at_the_top_of_the_store_and_no_other() -> None:
    body = WORDS.read_text().partition("class Rules:")[2].partition("\n\n\n")[0]
    rules = set(re.findall(r"^    (\w+): ", body, re.MULTILINE))
    told = set(re.findall(r"\[(\w+)[\] ]", sharding.store.__doc__ or ""))

    assert len(rules) > 40
    assert told == rules
