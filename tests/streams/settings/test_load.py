"""Settings: where each comes from, what is refused and how it is named, and that no secret shows anywhere."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from interest.errors import InputError, InterestreamError
from streams.cli import app
from streams.settings.load import load_settings, shown_settings, shown_url, store_url
from streams.settings.schema import Secret, Settings
from streams.store.engine import open_store

HIDDEN = "hunter2-q7x9"


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def refused(environ: dict[str, str] | None = None, file: Path | None = None) -> str:
    with pytest.raises(InputError) as error:
        load_settings(file, environ or {})
    shown = "".join(traceback.format_exception(error.value))
    assert HIDDEN not in shown
    return str(error.value)


def test_the_environment_comes_after_the_file_and_the_file_after_the_defaults(file):
    path = file('store = "sqlite:///a.db"\n[kafka]\nbrokers = "a:1"\npartitions = 3\n[llm]\nchained = true\n')
    environ = {"INTERESTREAM_KAFKA": "b:2, c:3", "INTERESTREAM_LLM_CONCURRENT": "7", "INTERESTREAM_KAFKA_PREFIX": ""}
    settings = load_settings(path, environ)
    assert (settings.store, settings.kafka.brokers, settings.kafka.partitions) == ("sqlite:///a.db", "b:2, c:3", 3)
    assert (settings.llm.chained, settings.llm.concurrent, settings.ingest.batch) == (True, 7, 20_000)
    assert load_settings(None, {"INTERESTREAM_CONFIG": str(path)}).kafka.brokers == "a:1"
    origins = {one.name: one.origin for one in shown_settings(path, environ)}
    assert origins["kafka.brokers"] == "INTERESTREAM_KAFKA"
    assert origins["kafka.partitions"] == origins["store"] == str(path)
    assert origins["kafka.prefix"] == "default"
    assert load_settings(None, {}) == Settings()


def test_every_setting_can_be_set_by_the_variable_that_is_shown():
    values = {
        "store": "sqlite:///x.db", "kafka.brokers": "h:1", "kafka.security": "SASL_SSL", "ingest.span": "week",
        "kafka.sasl_mechanism": "SCRAM-SHA-512", "llm.url": "https://h/v1", "llm.noun": "a,b", "ingest.gap": "3h",
        "llm.chained": "true", "agent.log": "json", "kafka.certificate_file": "c",
        "bank.pooling": "last", "bank.precision": "bfloat16", "ingest.dedupe": "row", "ingest.scenes": "apart",
        "kafka.isolation": "read_uncommitted", "llm.system_role": "false", "serve.writes": "kafka",
        "llm.backend": "auto", "serve.learn": "true",
    }  # fmt: skip
    defaults = shown_settings(None, {})
    environ = {one.variable: values.get(one.name, "3") for one in defaults}
    changed = shown_settings(None, environ)
    assert [one.name for one in changed] == [one.name for one in defaults]
    assert [one.name for one in changed if one.origin != one.variable] == []
    assert [a.name for a, b in zip(defaults, changed, strict=True) if a.value == b.value] == []


def test_none_unsets_what_may_be_unset(file):
    gap = {"INTERESTREAM_INGEST_GAP": "12h"}
    assert load_settings(None, {"INTERESTREAM_INGEST_COUNT": "none"} | gap).ingest.count is None
    assert load_settings(file('[ingest]\ncount = "none"\ngap = "1d"'), {}).ingest.count is None
    assert "expected `int`" in refused({"INTERESTREAM_INGEST_BATCH": "none"})


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("KAFKA_PARTITIONS", "0", "expected `int` >= 1"),
        ("KAFKA_PARTITIONS", "many", "expected `int`, got `str`"),
        ("KAFKA_RETENTION_DAYS", "-1", "expected `float` > 0"),
        ("KAFKA_RETENTION_DAYS", "inf", "expected `float` <= 36500"),
        ("KAFKA_SESSION_TIMEOUT_S", "nan", "expected `float` > 0"),
        ("KAFKA_SECURITY", "TLS", "invalid enum value 'TLS'"),
        ("KAFKA", "localhost", "must be host:port"),
        ("KAFKA", "kafka://localhost:9092", "must be host:port"),
        ("KAFKA", "a:1,,b:2", "must be host:port"),
        ("KAFKA", "a:99999", "must be host:port"),
        ("KAFKA_PREFIX", "my topics/", "'my topics/' begins every topic's name"),
        ("AGENT_PORT", "70000", "expected `int` <= 65535"),
        ("AGENT_DRAIN_S", "0", "expected `float` > 0"),
        ("LLM_CHAINED", "perhaps", "expected `bool`"),
        ("LLM_NOUN", "film", "must be two words"),
        ("INGEST_GAP", "soon", "'soon' is not a duration"),
        ("INGEST_COUNT", "none", "no partition would ever close"),
        ("KAFKA_PARTITION", "3", "is not a setting; there are: INTERESTREAM_KAFKA, INTERESTREAM_KAFKA_PREFIX"),
        ("KAFA", "a:1", "is not a setting"),
    ],
)
def test_a_bad_variable_is_named(variable, value, says):
    text = refused({f"INTERESTREAM_{variable}": value})
    assert f"INTERESTREAM_{variable}" in text
    assert says in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[kafka]\npartitions = 0", "[kafka] partitions: expected `int` >= 1"),
        ('[kafka]\npartitions = "8"', "[kafka] partitions: expected `int`, got `str`"),
        ("[kafka]\npartition = 8", "partition is not a setting of [kafka]; there are: brokers, prefix, partitions"),
        ("[kafak]\nx = 1", "kafak is not a setting; there are: store, cache, kafka"),
        ("kafka = 3", "kafka: expected `object`"),
        ('[kafka]\nbrokers = "x"', "[kafka] brokers: must be host:port"),
        ("[llm]\nkey = 12", "[llm] key: expected `str`"),
        ("[kafka\n", "is not TOML"),
    ],
)
def test_a_bad_file_is_named_with_table_and_key(file, text, says):
    path = file(text)
    assert str(path) in refused(file=path)
    assert says in refused(file=path)


def test_settings_that_need_others_say_so(file):
    assert refused({"INTERESTREAM_LLM_URL": "http://h:1"}).startswith("INTERESTREAM_LLM_MODEL: is not set; llm.url")
    assert refused({"INTERESTREAM_LLM_URL": "h:1", "INTERESTREAM_LLM_MODEL": "m"}).startswith("INTERESTREAM_LLM_URL:")
    assert refused({"INTERESTREAM_KAFKA_SECURITY": "SASL_SSL"}).startswith("INTERESTREAM_KAFKA_USERNAME: is not set")
    partly = file(f'[kafka]\nsecurity = "SASL_PLAINTEXT"\nusername = "u"\npassword = "{HIDDEN}"\nkey_file = "k"')
    assert refused(file=partly).startswith("INTERESTREAM_KAFKA_CERTIFICATE_FILE: is not set")
    # what one leaves out the other may say
    other = file('[llm]\nurl = "http://h:1"')
    assert load_settings(other, {"INTERESTREAM_LLM_MODEL": "m"}).llm.model == "m"


def test_the_file_is_heard_by_commands_that_only_need_the_store(file, monkeypatch):
    monkeypatch.delenv("INTERESTREAM_STORE", raising=False)
    assert store_url() == "sqlite:///interestream.db"
    monkeypatch.setenv("INTERESTREAM_CONFIG", str(file('store = "sqlite:///f.db"\n[llm]\nurl = "http://h:1"')))
    assert store_url() == "sqlite:///f.db"
    monkeypatch.setenv("INTERESTREAM_STORE", "sqlite:///e.db")
    assert store_url() == "sqlite:///e.db"
    assert store_url("sqlite:///o.db") == "sqlite:///o.db"


SECRETS = {
    "INTERESTREAM_KAFKA_PASSWORD": HIDDEN,
    "INTERESTREAM_LLM_KEY": HIDDEN,
    "INTERESTREAM_LLM_URL": f"http://me:{HIDDEN}@h:1/v1",
    "INTERESTREAM_LLM_MODEL": "m",
    "INTERESTREAM_STORE": f"postgresql+psycopg://me:{HIDDEN}@127.0.0.1:1/db?sslpassword={HIDDEN}",
}


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_shows_every_setting_and_no_secret(arguments, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke(app, ["settings", *arguments])
    assert run.exit_code == 0, run.output
    assert HIDDEN not in run.output
    for setting in shown_settings(None, {}):
        assert setting.variable in run.output
    if arguments:
        found = {one["name"]: one for one in json.loads(run.output)["settings"]}
        assert found["kafka.password"]["value"] == "***"
        assert found["store"]["value"] == "postgresql+psycopg://me:***@127.0.0.1:1/db?sslpassword=***"
        assert found["llm.key"]["origin"] == "INTERESTREAM_LLM_KEY"


def test_no_error_shows_a_secret(file):
    secret = load_settings(None, SECRETS).kafka.password
    assert secret is not None
    assert (secret.value, str(secret), f"{secret!r}") == (HIDDEN, "***", "***")
    for variable, value in [("KAFKA", "x"), ("KAFKA_PARTITIONS", "x"), ("LLM_NOUN", "x"), ("KAFKA_SECURITY", "x")]:
        refused({**SECRETS, f"INTERESTREAM_{variable}": value})
    refused({**SECRETS, "INTERESTREAM_LLM_URL": f"me:{HIDDEN}@h"})
    refused({"INTERESTREAM_KAFKA": f"me:{HIDDEN}@h:1"})
    for text in (
        f'[kafka]\npassword = "{HIDDEN}"\npartitions = 0',
        f'[kafka]\npassword = ["{HIDDEN}"]',
        f"[kafka]\npassword = {HIDDEN}",
        f'[kafka]\npassword = "{HIDDEN}',
        f'[kafka]\npassword = "{HIDDEN}"\npassword = "{HIDDEN}"',
        f'[llm]\nkey = "{HIDDEN}"\nurl = "http://u:{HIDDEN}@h"',
    ):
        refused(file=file(text))


@pytest.mark.parametrize(
    "url",
    [
        SECRETS["INTERESTREAM_STORE"],
        f"postgresql+psycopg://127.0.0.1:1/db?password={HIDDEN}",
        f"postgresql+psycopg://me:{HIDDEN}@127.0.0.1:port/db",
        f"postgresql+psycopg://me:un/escaped@{HIDDEN}@127.0.0.1:1/db",
        f"postgres://me:{HIDDEN}@127.0.0.1/db",
        f"oracle://me:{HIDDEN}@127.0.0.1/db",
        f"me:{HIDDEN}@127.0.0.1",
    ],
)
def test_a_store_that_cannot_be_opened_shows_no_password(url):
    with pytest.raises(InterestreamError) as error:
        open_store(url)
    assert HIDDEN not in str(error.value)
    assert "127.0.0.1" in str(error.value)


@given(st.text(), st.text(st.characters(exclude_characters="&?"), min_size=9))
def test_a_url_never_shows_its_password(user, password):
    user = user.replace(":", "").replace("/", "").replace("@", "")
    shown = shown_url(f"postgresql://{user}:{password}@host/db")
    assert shown == f"postgresql://{user}:***@host/db"


def test_secrets_survive_the_way_to_a_worker_process():
    settings = load_settings(None, SECRETS)
    assert HIDDEN not in repr(settings.kafka)
    assert HIDDEN not in repr(settings.llm.key)
    with pytest.raises(TypeError):
        msgspec.json.encode(settings.kafka)  # no log can write it by accident
    assert Secret("a").value == "a"
