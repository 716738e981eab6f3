"""A wrong configuration: all problems are named at once, each with its place and a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config.load import ConfigError, load, parse
from config.mistakes import names_at, unknown, unknown_variable, variables
from config.model import Sections
from config.reading import read_yaml

WRONG = """\
mode: production
gatway: {port: 1}
gateway:
  prot: 8080
  port: 70000
lookup:
  servers:
    - 127.0.0.1:7101:1 lookup1
    - {host: h, port: 1, wieght: 2, name: b}
  timeout: fast
  timeout: 400
  token_keys: [x]
mysql:
  hosts: ["127.0.0.1:7306"]
  user: tapedeck
  tls_ca_file: nowhere.pem
partitions:
  retention: 9
"""


def test_all_problems_of_a_file_are_reported_at_once_each_with_its_line_and_place(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tapedeck.yml"
    path.write_text(WRONG)

    with pytest.raises(ConfigError) as refused:
        load(path, {})

    keys = [
        f"auth.{name} (or auth.{name}_file) is needed in production"
        for name in ("token_keys", "service_keys")
    ]
    meant = "there is no such value; did you mean"
    assert set(refused.value.sentences) == {
        f"{path}: {problem}"
        for problem in (
            "line 11: 'timeout' is given twice, first on line 10",
            "line 2: gatway: there is no such section; did you mean gateway?",
            f"line 4: gateway.prot: {meant} gateway.port?",
            "line 5: gateway.port: Input should be less than or equal to 65535",
            f"line 9: lookup.servers.1.wieght: {meant} lookup.servers.1.weight?",
            f"line 12: lookup.token_keys: {meant} auth.token_keys?",
            "line 13: mysql: tls_ca_file needs tls: true",
            f"line 18: partitions.retention: {meant} partitions.retention_days?",
            f"configuration: {'; '.join(keys)}",
        )
    }


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        (
            "TAPEDECK_LOOKUP__TIMOUT",
            "no value lookup.timout; did you mean TAPEDECK_LOOKUP__TIMEOUT?",
        ),
        (
            "TAPEDECK_LOKUP__TIMEOUT",
            "no value lokup.timeout; did you mean TAPEDECK_LOOKUP__TIMEOUT?",
        ),
        ("TAPEDECK_LOOKUP_TIMEOUT", "sets no value; did you mean TAPEDECK_LOOKUP__TIMEOUT?"),
        ("TAPEDECK_MYSQL__PASSWORDFILE", "did you mean TAPEDECK_MYSQL__PASSWORD_FILE"),
        ("TAPEDECK_MODE__X", "no value mode.x"),
        ("TAPEDECK_JUKEBOX__COLOUR", "no value jukebox.colour"),
    ],
)
def test_a_misspelt_variable_is_named_with_a_suggestion_and_others_are_ignored(
    variable: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(
            yaml.safe_load("lookup: {servers: ['h:1:1 a']}\nmysql: {hosts: ['h:1'], user: u}"),
            environ={variable: "1", "TAPEDECK_HOME": "x", "TAPEDECK_LOOKUP_PORTS": "1,2"},
        )

    (problem,) = refused.value.problems
    assert problem.startswith(f"{variable} (environment): ")
    assert sentence in problem


def test_a_problem_says_whether_it_is_in_the_file_or_in_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "tapedeck.yml"
    path.write_text(
        "lookup: {servers: ['h:1:1 a']}\nmysql: {hosts: [h], user: u}\nlog: {level: x}\n"
    )
    with pytest.raises(ConfigError) as refused:
        load(path, {"TAPEDECK_LOG__LEVEL": "loud"})

    hosts, level = refused.value.problems
    assert hosts.startswith("line 2: mysql.hosts.0: ")
    assert level.startswith("log.level (environment: TAPEDECK_LOG__LEVEL): ")


NAMES = [(section, key) for section in Sections.model_fields for key in names_at([section])]


@given(st.sampled_from(NAMES), st.data())
def test_a_misspelt_long_name_gets_the_right_suggestion(
    name: tuple[str, str], data: st.DataObject
) -> None:
    """One character is missing, wrong or doubled."""
    section, key = name
    at = data.draw(st.integers(0, len(key) - 1))
    by = data.draw(st.sampled_from(["", "x", key[at] * 2]))
    misspelt = key[:at] + by + key[at + 1 :]
    if len(key) < 6 or misspelt in names_at([section]):
        return

    assert f"{section}.{key}" in unknown((section, misspelt))
    variable = f"TAPEDECK_{section}__{key}".upper()
    wrong = f"TAPEDECK_{section}__{misspelt}".upper()
    if wrong not in variables():
        assert variable in unknown_variable(wrong, f"{section}.{misspelt}")


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4).map(tuple))
def test_any_unknown_name_is_answered_with_a_sentence(place: tuple[str, ...]) -> None:
    assert unknown(place).startswith(("there is no such", "is gone"))


@given(
    st.recursive(
        st.integers(0, 9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_the_line_of_every_value_in_a_file_is_known(tree: object) -> None:
    text = yaml.safe_dump(tree, default_flow_style=False)
    document = read_yaml(text)

    def check(value: object, place: tuple[str, ...]) -> None:
        named = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value if isinstance(value, list) else ())
        )
        for name, inner in named:
            here = (*place, str(name))
            line = text.splitlines()[document.lines[here] - 1]
            assert f"{name}:" in line or isinstance(value, list)
            check(inner, here)

    check(tree, ())
    assert document.value == tree
