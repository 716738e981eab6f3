"""Play tokens: an issued token is accepted, and every other text is refused."""

from __future__ import annotations

import base64
import hmac
import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.tokens import (
    EXPIRED,
    MALFORMED,
    NOT_OURS,
    BadToken,
    Listener,
    TokenKeys,
    anonymous_user_id,
)
from sharding.state import USER_MAX

NOW = 1_763_900_000.25
KEY = b"first key of thirty-two characters."
OTHER = b"other key of thirty-two characters."
KEYS = TokenKeys([KEY], lifetime_seconds=3600)

user_ids = st.integers(1, 2**63 - 1)
alphabet = st.sampled_from(string.ascii_letters + string.digits + "-_+/=. \n\0é😀")


def reason(keys: TokenKeys, token: str, now: float = NOW) -> str:
    with pytest.raises(BadToken) as refusal:
        keys.verify(token, now)
    return str(refusal.value)


@given(user_ids, st.floats(0, 4e9), st.floats(1, 3650 * 86400), st.floats(0, 0.999))
def test_a_token_names_its_listener_until_it_expires(user_id, now, lifetime, part):
    keys = TokenKeys([KEY], lifetime)
    listener = keys.verify(keys.issue(user_id, now), now + part * lifetime)
    assert listener == Listener(user_id, logged_in=user_id <= USER_MAX)


@given(user_ids, st.data())
def test_a_token_with_any_character_changed_is_refused(user_id, data):
    token = KEYS.issue(user_id, NOW)
    place = data.draw(st.integers(0, len(token) - 1))
    changed = data.draw(alphabet.filter(lambda c: c != token[place]))
    assert reason(KEYS, token[:place] + changed + token[place + 1 :]) in (MALFORMED, NOT_OURS)


@given(user_ids, st.data())
def test_a_shortened_token_is_malformed(user_id, data):
    token = KEYS.issue(user_id, NOW)
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, len(token)))
    if (start, end) != (0, len(token)):
        assert reason(KEYS, token[start:end]) == MALFORMED
    if start < end:
        assert reason(KEYS, token[:start] + token[end:]) == MALFORMED


@given(user_ids, st.text(alphabet, min_size=1, max_size=5), st.integers(0, 44))
def test_an_extended_token_is_malformed(user_id, more, place):
    token = KEYS.issue(user_id, NOW)
    assert reason(KEYS, token[:place] + more + token[place:]) == MALFORMED


@given(st.text())
def test_any_text_is_refused(text):
    reason(KEYS, text)


@given(st.binary(min_size=33, max_size=33))
def test_random_bytes_in_a_token_s_format_are_not_ours(raw):
    assert reason(KEYS, base64.urlsafe_b64encode(raw).decode()) == NOT_OURS


def test_a_token_of_another_key_is_not_ours():
    assert reason(KEYS, TokenKeys([OTHER], 3600).issue(42, NOW)) == NOT_OURS


def test_a_token_signed_without_the_label_is_not_ours():
    raw = base64.urlsafe_b64decode(KEYS.issue(42, NOW))[:17]
    forged = raw + hmac.digest(KEY, raw, "sha256")[:16]
    assert reason(KEYS, base64.urlsafe_b64encode(forged).decode()) == NOT_OURS


def test_a_token_expires_after_its_lifetime_and_not_before():
    token = KEYS.issue(42, NOW)
    assert KEYS.verify(token, NOW + 3600).user_id == 42
    assert reason(KEYS, token, math.ceil(NOW + 3600)) == EXPIRED


def test_an_expired_token_of_another_key_counts_as_not_ours():
    expired = TokenKeys([OTHER], 1).issue(42, NOW - 1000)
    assert reason(KEYS, expired) == NOT_OURS


@given(user_ids)
def test_old_tokens_are_accepted_until_their_key_is_removed(user_id):
    old = TokenKeys([KEY], 3600).issue(user_id, NOW)
    both = TokenKeys([OTHER, KEY], 3600)
    new = both.issue(user_id, NOW)
    assert both.verify(old, NOW) == both.verify(new, NOW)
    only_new = TokenKeys([OTHER], 3600)
    assert only_new.verify(new, NOW).user_id == user_id
    assert reason(only_new, old) == NOT_OURS


def test_known_users_are_logged_in_and_anonymous_ones_are_not():
    assert KEYS.verify(KEYS.issue(USER_MAX, NOW), NOW).logged_in
    assert not KEYS.verify(KEYS.issue(USER_MAX + 1, NOW), NOW).logged_in


def test_anonymous_ids_are_above_those_of_known_users_and_differ():
    ids = {anonymous_user_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(USER_MAX < user_id <= 2**63 - 1 for user_id in ids)


def test_a_key_is_not_shown():
    assert "first key" not in repr(KEYS)


def test_the_reason_of_a_refusal_does_not_show_the_token():
    token = KEYS.issue(42, NOW)
    assert token not in reason(KEYS, token, NOW + 9999)
