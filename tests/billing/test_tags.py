"""What an operator may type as tags, and the sentence for everything else."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import tags

KEYS = st.from_regex(r"[a-z][a-z0-9_.-]{0,39}", fullmatch=True)
VALUES = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters=",\u2028"), min_size=1, max_size=80).filter(
    lambda v: v.strip() == v and v.isprintable()
)  # fmt: skip


def test_tags_are_read_as_they_are_written():
    assert tags.parse(" team=search , env = prod\n,") == {"env": "prod", "team": "search"}
    assert tags.text({"team": "search", "env": "prod"}) == "env=prod, team=search"
    assert tags.parse("") == {}
    assert tags.parse("note=a=b") == {"note": "a=b"}


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(KEYS, VALUES, max_size=tags.MOST))
def test_whatever_is_kept_can_be_written_and_read_again(kept):
    assert tags.parse(tags.text(kept)) == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("team", "has no value"),
        ("team=", "has no value"),
        ("Team=x", "is no key"),
        ("1=x", "is no key"),
        ("a__b =x,__class__=1", "is no key"),
        (f"{'a' * 41}=x", "is no key"),
        (f"a={'x' * 81}", "81 characters"),
        ("a=x, a=y", "twice"),
        (",".join(f"k{n}=v" for n in range(11)), "11 tags"),
        ("a=\x00", "cannot be shown"),
    ],
)
def test_anything_else_is_refused_with_what_to_do(text, words):
    with pytest.raises(tags.BadTags, match=words):
        tags.parse(text)
