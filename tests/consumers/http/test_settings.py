"""The table `[serve]`, tokens from three places, and what is too dangerous to start."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from consumers.http.settings import Settings
from streamrec.build import BadSpec

DIGEST = hashlib.sha256(b"token").hexdigest()


def test_defaults_listen_to_this_machine_only() -> None:
    settings = Settings.from_table({}, environment={})
    assert (settings.host, settings.port, settings.tokens) == ("127.0.0.1", 8700, {})
    assert settings == Settings()
    assert frozenset(Settings.__struct_fields__) == Settings.KEYS


def test_keys_of_others_are_left_to_them() -> None:
    assert Settings.from_table({"port": 0, "lag_records": 5}, environment={}).port == 0


def test_tokens_come_from_the_table_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n\nserve:{DIGEST}   # the shop\n")
    other = hashlib.sha256(b"other").hexdigest()
    settings = Settings.from_table(
        {"tokens": {"serve": [other]}}, file, {"STREAMREC_TOKENS": f"admin:{DIGEST},ingest:{DIGEST}"}
    )
    assert settings.tokens == {"serve": [other, DIGEST], "admin": [DIGEST], "ingest": [DIGEST]}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_public_address_needs_a_token(host: str) -> None:
    with pytest.raises(BadSpec, match="streamrec token"):
        Settings.from_table({"host": host}, environment={})
    assert Settings.from_table({"host": host, "tokens": {"serve": [DIGEST]}}, environment={}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_a_loopback_address_needs_none(host: str) -> None:
    assert Settings.from_table({"host": host}, environment={}).host == host


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"port": 70_000}, "port"),
        ({"port": "8700"}, "port"),
        ({"limits": {"body_byte": 5}}, "body_bytes"),
        ({"limits": {"events": 0}}, "events"),
        ({"tokens": {"server": [DIGEST]}}, "did you mean 'serve'"),
        ({"tokens": {"serve": ["plain"]}}, "sha256"),
        ({"tokens": {"serve": [DIGEST.upper()]}}, "lower case"),
    ],
)
def test_what_does_not_fit_is_said(table: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSpec, match=says):
        Settings.from_table(table, environment={})


def test_a_bad_line_is_named_by_its_number_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"serve:{DIGEST}\nserve:my-secret-token\n")
    with pytest.raises(BadSpec, match="line 2") as error:
        Settings.from_table({}, file, {})
    assert "my-secret-token" not in str(error.value)
    with pytest.raises(BadSpec, match="cannot read"):
        Settings.from_table({}, tmp_path / "none", {})
