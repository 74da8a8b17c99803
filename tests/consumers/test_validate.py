"""Every fault of a log or a topic is counted and its place told; nothing of its contents is."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumers import wire
from consumers.broker import EmbeddedBroker
from consumers.commands_events import app
from consumers.scan import topics
from consumers.validate import Verdict, is_topic, validate_log, validate_topic
from tests.consumers.kafka_topics import end, send

HEADER = "user,item,kind,time,slate,slot\n"


def log(path: Path, rows: list[str]) -> Path:
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["validate", *arguments])
    return result.exit_code, result.stdout, result.stderr


# --- logs ------------------------------------------------------------------------------------------------------------


def test_a_clean_log_is_clean(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", ["u1,i1,click,1,,", "u1,,request,2,,"])
    assert validate_log(path) == Verdict(str(path), checked=2)
    assert run(str(path)) == (0, f"{path}: 2 rows, 0 faults\n", "")


def test_faults_are_counted_by_reason_with_the_first_rows(tmp_path: Path) -> None:
    good = ["bob,i1,click,1,,"] * 7
    bad = ["bob,i1,clik,1,,"] * 5 + [",i1,click,1,,", "bob,i1,click,bob,,", "bob,,click,1,,"]
    shown = ["bob,i1,impression,2,of-bob,0", "rob,i1,impression,2,of-bob,0"]
    verdict = validate_log(log(tmp_path / "log.csv", good + bad + shown), examples=2)
    assert verdict.checked == 17
    assert {reason: found.count for reason, found in verdict.faults.items()} == {
        "unknown_kind": 5,
        "empty_id": 2,
        "bad_time": 1,
        "duplicate_slot": 1,
        "duplicate_item": 1,
        "two_users": 1,
    }
    assert verdict.faults["unknown_kind"].examples == [
        {"file": "log.csv", "row": 8, "line": 9},
        {"file": "log.csv", "row": 9, "line": 10},
    ]
    assert [place["row"] for place in verdict.faults["empty_id"].examples] == [13, 15]
    assert [place["row"] for place in verdict.faults["two_users"].examples] == [17]
    assert verdict.code == 1


def test_no_text_of_a_row_is_told(tmp_path: Path) -> None:
    rows = ["bob,bob,bob,bob,bob,bob", "1,bob,click,bob,,", "bob,bob,impression,1,bob,-3", "bob,bob,leave,x,bob,bob"]
    path = log(tmp_path / "log.csv", rows)
    for arguments in ([str(path)], [str(path), "--json"]):
        code, out, err = run(*arguments)
        assert code == 1
        assert "bob" not in (out + err).replace(str(path), "")


def test_columns_can_be_named_and_folders_are_one_log(tmp_path: Path) -> None:
    import pandas as pd

    from streamrec.data.events import EventWriter

    for part in range(2):
        with EventWriter(tmp_path / f"part-{part}.parquet") as writer:
            writer.append(pd.DataFrame({"user": ["u"], "item": ["i"], "kind": ["click"], "time": [1.0]}))
    assert validate_log(tmp_path).checked == 2
    path = tmp_path / "clicks.csv.gz"
    path.write_bytes(gzip.compress(b"session,item,ms\ns1,i1,1000\ns1,i2,soon\n"))
    code, out, _ = run(str(path), "--column", "user=session", "--column", "kind='click'", "--column", "time=ms/1000")
    assert code == 1
    assert "        1  bad_time: expected a finite number of seconds since the epoch" in out
    assert "clicks.csv.gz, row 2 (line 3)\n" in out


def test_what_was_found_before_a_log_breaks_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"user": "u", "item": "i", "kind": "clik", "time": at} for at in range(70_000)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    code, out, err = run(str(path), "--json")
    told = json.loads(out)
    assert (code, told["ok"], told["faults"]["unknown_kind"]["count"]) == (2, False, 65_536)
    assert "row 70001 (line 70001)" in told["unreadable"]
    assert err == ""


@pytest.mark.parametrize("name", ["nowhere.csv", "./nowhere", "nothing.jsonl.gz"])
def test_a_log_that_is_not_there_cannot_be_read(name: str) -> None:
    code, _, err = run(name)
    assert code == 2
    assert "streamrec: " in err


def test_a_mapping_without_an_equals_sign_is_refused(tmp_path: Path) -> None:
    assert run(str(log(tmp_path / "log.csv", [])), "--column", "user")[0] == 2


def test_a_name_is_a_topic_unless_it_is_or_looks_like_a_file(tmp_path: Path) -> None:
    assert is_topic("streamrec.events")
    assert is_topic("kafka:log.csv")
    assert not is_topic(str(tmp_path))
    assert not is_topic("log.csv.gz")
    assert not is_topic("some/topic")


# --- topics ----------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_faults_of_a_topic_are_counted_with_the_first_offsets(broker: EmbeddedBroker, topic: str) -> None:
    bad = [b'{"user":"bob","kind":"bob"}', b'{"user":"bob"', b'{"user":"bob","kind":"bob","item":"i"}', b"bob"]
    send(broker.address, topic, [*(wire.Event("leave", "bob") for _ in range(30)), *bad, wire.Event("leave", "bob")])
    end(broker.address, topic)
    verdict = validate_topic(broker.address, topic, examples=1)
    assert (verdict.checked, verdict.ends, verdict.faulty, verdict.code) == (36, 1, 4, 1)
    assert {reason: (found.count, found.examples) for reason, found in verdict.faults.items()} == {
        "unknown_value:kind": (2, [{"partition": 0, "offset": 30}]),
        "cut_short": (1, [{"partition": 0, "offset": 31}]),
        "malformed_json": (1, [{"partition": 0, "offset": 33}]),
    }
    code, out, err = run(topic, "--bootstrap-servers", broker.address)
    assert (code, err) == (1, "")
    assert "        2  unknown_value:kind: expected one of request, impression, click" in out
    assert f"kafka:{topic}: 36 messages, 1 of them `end`, 4 faults" in out
    assert "bob" not in out


@pytest.mark.kafka
def test_a_clean_topic_is_clean_and_a_missing_one_cannot_be_read(broker: EmbeddedBroker, topic: str) -> None:
    send(broker.address, topic, [wire.Event("leave", "bob")])
    code, out, _ = run(f"kafka:{topic}", "--bootstrap-servers", broker.address, "--json")
    assert (code, json.loads(out)["ok"], json.loads(out)["checked"]) == (0, True, 1)
    code, _, err = run("nowhere", "--bootstrap-servers", broker.address)
    assert code == 2
    assert "got 'nowhere'" in err
    assert "nowhere" not in topics(broker.address)


def test_a_broker_that_is_not_there_cannot_be_read() -> None:
    code, out, _ = run("events", "--bootstrap-servers", "127.0.0.1:1", "--json")
    assert code == 2
    assert "no Kafka broker answers" in json.loads(out)["unreadable"]


def test_the_commands_are_imported_without_what_they_need() -> None:
    program = (
        "import sys, consumers.commands_events, consumers.commands_dead_letters;"
        "print([name for name in ('torch', 'kafka', 'pandas', 'pyarrow', 'numpy', 'msgspec') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
