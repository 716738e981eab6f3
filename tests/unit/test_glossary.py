"""The glossary is short, and each of its words is used."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"


def words() -> list[str]:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", GLOSSARY.read_text(), re.MULTILINE)
    return [row for row in rows if row not in ("word", "---")]


def test_the_glossary_has_at_most_25_words_in_alphabetical_order():
    assert 10 < len(words()) <= 25
    assert words() == sorted(set(words()), key=str.lower)


def test_each_word_of_the_glossary_is_used_in_the_code_and_on_a_page():
    code = [
        path for name in ("gateway", "sharding", "failover") for path in (ROOT / name).rglob("*.py")
    ]
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path != GLOSSARY]
    for files in (code, pages):
        text = " ".join(re.sub(r"\s+", " ", path.read_text()) for path in files)
        unused = [word for word in words() if not re.search(rf"\b{word}", text, re.IGNORECASE)]
        assert not unused


def test_the_docs_readme_and_contributing_link_the_glossary():
    assert "(glossary.md)" in (ROOT / "docs" / "README.md").read_text()
    assert "(docs/glossary.md)" in (ROOT / "CONTRIBUTING.md").read_text()
