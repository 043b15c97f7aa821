"""The environment: what is read, under which names, and the messages about wrong values."""

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from wrm_pipeline.definitions import build_defs
from wrm_pipeline.domain.rules import NO_STRICT_RULES, ServiceArea, StrictRules
from wrm_pipeline.lake.local_object_store import LocalObjectStore
from wrm_pipeline.lake.s3_object_store import S3ObjectStore
from wrm_pipeline.resources.feed import FeedResource
from wrm_pipeline.resources.lake import LakeResource, connect_store, s3_access
from wrm_pipeline.settings import SettingsError, load_settings

CANARY = "CANARY-s3cr3t"


def set_all(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def message_of_wrong(monkeypatch, **variables) -> str:
    set_all(monkeypatch, **variables)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert CANARY not in str(caught.value)
    return str(caught.value)


def test_defaults_are_those_of_the_data_contract(monkeypatch, tmp_path):
    monkeypatch.delenv("WRM_DATA_DIR")
    monkeypatch.chdir(tmp_path)

    settings = load_settings()

    assert settings.env == "local"
    assert settings.data_dir == tmp_path / "data"
    assert settings.feed_url == "https://gladys.geog.ucl.ac.uk/bikesapi/load.php?scheme=wroclaw"
    assert settings.prefix == "bike-data/gen_info/"
    assert settings.layout.raw_name_zone == ZoneInfo("UTC")
    assert settings.bucket_name is None
    assert settings.area == ServiceArea(51.0, 51.3, 16.7, 17.3)
    assert (settings.lake_dir, settings.database_path) == (
        tmp_path / "data" / "lake",
        tmp_path / "data" / "analytics.duckdb",
    )
    assert isinstance(connect_store(settings), LocalObjectStore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "names",
    [
        ("S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"),
        ("HETZNER_ENDPOINT_URL", "HETZNER_ACCESS_KEY_ID", "HETZNER_SECRET_ACCESS_KEY"),
        ("MINIO_ENDPOINT_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
    ],
)
def test_credentials_are_understood_under_each_set_of_names(monkeypatch, names):
    endpoint, key, secret = names
    set_all(
        monkeypatch, BUCKET_NAME="bikes", **{endpoint: "https://s3.example.org", key: "the-key", secret: "the-secret"}
    )

    access = s3_access(load_settings())

    assert access is not None
    assert (access.bucket, access.endpoint_url, access.access_key_id, access.secret_access_key) == (
        "bikes",
        "https://s3.example.org",
        "the-key",
        "the-secret",
    )
    assert isinstance(connect_store(load_settings()), S3ObjectStore)


def test_the_s3_names_come_before_the_others(monkeypatch):
    set_all(
        monkeypatch,
        BUCKET_NAME="b",
        MINIO_ACCESS_KEY="minio",
        HETZNER_ACCESS_KEY_ID="hetzner",
        S3_ACCESS_KEY_ID="s3",
        S3_SECRET_ACCESS_KEY="x",
    )
    assert load_settings().s3_access_key_id.get_secret_value() == "s3"


def test_any_value_may_stand_in_a_file(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "secret").write_text(f"  {CANARY} \n")
    (tmp_path / "bucket").write_text("bikes")
    set_all(
        monkeypatch,
        HETZNER_ACCESS_KEY_ID_FILE=str(tmp_path / "key"),
        S3_SECRET_ACCESS_KEY_FILE=str(tmp_path / "secret"),
        BUCKET_NAME_FILE=str(tmp_path / "bucket"),
    )

    settings = load_settings()

    assert settings.bucket_name == "bikes"
    assert settings.s3_access_key_id.get_secret_value() == "from-file"
    assert settings.s3_secret_access_key.get_secret_value() == CANARY


def test_a_variable_itself_comes_before_its_file(monkeypatch, tmp_path):
    (tmp_path / "prefix").write_text("from-file")
    set_all(monkeypatch, WRM_STATIONS_S3_PREFIX="direct", WRM_STATIONS_S3_PREFIX_FILE=str(tmp_path / "prefix"))
    assert load_settings().prefix == "direct/"


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"\xff\xfe", "not UTF-8"), (b" \n", "empty")])
def test_an_unusable_secret_file_names_variable_and_path(monkeypatch, tmp_path, content, why):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    message = message_of_wrong(monkeypatch, BUCKET_NAME="b", S3_SECRET_ACCESS_KEY_FILE=str(path))
    assert "S3_SECRET_ACCESS_KEY_FILE" in message
    assert str(path) in message
    assert why in message


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    set_all(monkeypatch, BUCKET_NAME="", WRM_ENV="", WRM_FEED_MAX_BYTES="")
    settings = load_settings()
    assert (settings.bucket_name, settings.env) == (None, "local")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("WRM_ENV", "prod", "'local' or 'production'"),
        ("WRM_FEED_MAX_BYTES", "lots", "integer"),
        ("WRM_FEED_MAX_BYTES", "0", "greater than 0"),
        ("WRM_SPOOL_MAX_BYTES", "-1", "greater than 0"),
        ("WRM_STATIONS_DATA_URL", "gladys.geog.ucl.ac.uk", "http://"),
        ("WRM_STATIONS_S3_PREFIX", "a//b", "no part between slashes may be empty"),
        ("WRM_STATIONS_S3_PREFIX", "../other", "start with a dot"),
        ("WRM_RAW_NAME_TIMEZONE", "Nowhere/Atlantis", "Europe/Warsaw"),
        ("WRM_RAW_NAME_TIMEZONE", "Europe", "Europe/Warsaw"),
        ("WRM_RAW_NAME_TIMEZONE_UNTIL", "soon", "valid date"),
        ("WRM_TIMEZONE", "America/New York", "give a name like UTC or Europe/Warsaw"),
        ("WRM_TIMEZONE", "localtime", "give a name like UTC or Europe/Warsaw"),
        ("WRM_CITY", "x" * 81, "at most 80 characters"),
        ("WRM_GBFS_SYSTEM_ID", "wroc ław", "plain letters"),
        ("WRM_GBFS_LANGUAGE", "Polish", "a code like pl or pt-BR"),
        ("WRM_GBFS_CONTACT", "a@b.pl,c@d.pl", "bikes@example.org"),
        ("WRM_GBFS_CONTACT", "a@localhost", "bikes@example.org"),
        ("WRM_GBFS_EBIKE_RANGE_M", "60 km", "integer"),
        ("WRM_GBFS_EBIKE_RANGE_M", "60", "greater than or equal to 1000"),
        ("WRM_SERVICE_AREA", "51.0,51.3", "lat_min,lat_max,lon_min,lon_max"),
        ("WRM_SERVICE_AREA", "51.3,51.0,16.7,17.3", "minima first"),
        ("WRM_SERVICE_AREA", "51.0,nan,16.7,17.3", "minima first"),
        ("S3_ENDPOINT_URL", "s3.example.org", "https://"),
        ("MINIO_ENDPOINT_URL", "minio:9000", "https://"),
    ],
)
def test_a_wrong_value_names_variable_value_and_remedy(monkeypatch, name, value, remedy):
    message = message_of_wrong(monkeypatch, **{name: value})
    assert message.startswith(f"{name}={value!r}: ")
    assert remedy in message
    assert "\n" not in message


def test_all_wrong_values_are_reported_at_once(monkeypatch):
    message = message_of_wrong(monkeypatch, WRM_ENV="prod", WRM_SERVICE_AREA="here", S3_SECRET_ACCESS_KEY=CANARY)
    assert [line.partition("=")[0] for line in message.splitlines()] == ["WRM_ENV", "WRM_SERVICE_AREA"]


@pytest.mark.parametrize("given", [{}, {"S3_ACCESS_KEY_ID": CANARY}, {"MINIO_SECRET_KEY": CANARY}])
def test_a_bucket_without_credentials_stops_the_load(monkeypatch, given):
    message = message_of_wrong(monkeypatch, BUCKET_NAME="bikes", **given)
    assert "BUCKET_NAME is 'bikes'" in message
    assert "S3_ACCESS_KEY_ID" in message
    assert "S3_SECRET_ACCESS_KEY" in message


def test_no_secret_is_in_any_repr(monkeypatch):
    set_all(
        monkeypatch,
        BUCKET_NAME="b",
        S3_ENDPOINT_URL="https://s3.example.org",
        S3_ACCESS_KEY_ID=f"{CANARY}-id",
        S3_SECRET_ACCESS_KEY=CANARY,
    )
    settings = load_settings()
    lake = LakeResource.of(settings)
    assert lake.settings.bucket_name == "b"
    shown = [
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        repr(s3_access(settings)),
        repr(lake),
        str(lake.model_dump()),
        repr(lake.store),
        repr(lake.database),
        str(connect_store(settings)),
    ]
    assert [text for text in shown if CANARY in text] == []


def test_a_prefix_is_a_folder_whatever_its_slashes(monkeypatch):
    found = {}
    for value in ("a/b", "/a/b/", "a/b/", "/"):
        monkeypatch.setenv("WRM_STATIONS_S3_PREFIX", value)
        found[value] = load_settings().layout.raw_folder(date(2025, 8, 21))
    assert set(list(found.values())[:3]) == {"a/b/raw/dt=2025-08-21/"}
    assert found["/"] == "raw/dt=2025-08-21/"


def test_the_time_zone_of_raw_names_reaches_the_layout(monkeypatch):
    set_all(monkeypatch, WRM_RAW_NAME_TIMEZONE="Europe/Warsaw", WRM_RAW_NAME_TIMEZONE_UNTIL="2025-09-01")
    layout = load_settings().layout
    key = "bike-data/gen_info/raw/dt=2025-08-21/wrm_stations_2025-08-21_14-00-00.txt"
    assert layout.parse_raw_key(key).file_timestamp == datetime(2025, 8, 21, 12, tzinfo=UTC)
    later = key.replace("2025-08-21", "2025-09-01")
    assert layout.parse_raw_key(later).file_timestamp == datetime(2025, 9, 1, 14, tzinfo=UTC)


def test_a_relative_data_folder_stays_where_it_was_when_the_process_moves_on(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WRM_DATA_DIR", "somewhere")
    settings = load_settings()
    monkeypatch.chdir("/")
    assert settings.lake_dir == tmp_path / "somewhere" / "lake"
    monkeypatch.setenv("WRM_DATA_DIR", "~/wrm")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().data_dir == Path(tmp_path) / "wrm"


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://me:CANARY-pw@lineage:5000", "https://lineage/?key=CANARY-pw", "https://", "http://x:99999"],
)
def test_an_address_of_a_lineage_receiver_holds_no_credential_and_none_is_shown(monkeypatch, url):
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    with pytest.raises(SettingsError, match="OPENLINEAGE_URL: is not the address of a lineage receiver") as caught:
        load_settings()
    assert "CANARY" not in str(caught.value)
    assert "OPENLINEAGE_API_KEY" in str(caught.value)


def test_the_key_of_the_lineage_receiver_may_be_in_a_file(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("CANARY-key\n")
    monkeypatch.setenv("OPENLINEAGE_API_KEY_FILE", str(tmp_path / "key"))
    settings = load_settings()
    assert settings.openlineage_api_key.get_secret_value() == "CANARY-key"
    assert "CANARY" not in repr(settings)


def test_the_city_and_its_zone(monkeypatch):
    assert (load_settings().city, load_settings().zone) == ("Wrocław", ZoneInfo("Europe/Warsaw"))
    set_all(monkeypatch, WRM_CITY="St. John's", WRM_TIMEZONE="America/St_Johns")
    assert (load_settings().city, load_settings().zone) == ("St. John's", ZoneInfo("America/St_Johns"))


@pytest.mark.parametrize("name", ["WRM_GBFS_OUT_URL", "WRM_GBFS_LICENSE_URL"])
@pytest.mark.parametrize(
    "address", [f"https://u:{CANARY}@x.example/", f"https://x.example/?key={CANARY}", f"ftp:{CANARY}"]
)
def test_an_address_with_a_credential_is_not_published(monkeypatch, name, address):
    message = message_of_wrong(monkeypatch, **{name: address})
    assert f"{name}: is not an address to publish" in message
    assert CANARY not in message


def test_what_gbfs_files_say_of_the_system(monkeypatch):
    settings = load_settings()
    system = settings.public_system()
    assert (system.name, system.system_id, system.timezone) == ("Wrocław", "wroclaw", "Europe/Warsaw")
    assert system.url == f"{settings.data_dir.as_uri()}/reports/gbfs/"
    monkeypatch.setenv("WRM_REPORT_URL", f"https://u:{CANARY}@x.example/reports")
    assert CANARY not in load_settings().public_system().url
    monkeypatch.setenv("WRM_REPORT_URL", "https://x.example/reports/")
    assert load_settings().public_system().url == "https://x.example/reports/gbfs/"
    set_all(monkeypatch, WRM_GBFS_OUT_URL="https://x.example/gbfs", WRM_CITY="Łódź – São João", WRM_TIMEZONE="UTC")
    system = load_settings().public_system()
    assert (system.url, system.system_id, system.timezone) == ("https://x.example/gbfs/", "lodz_sao_joao", "UTC")
    monkeypatch.setenv("WRM_GBFS_SYSTEM_ID", "Forever-1")
    assert load_settings().public_system().system_id == "Forever-1"


# --- the first partition ---


def test_strict_rules_are_read_in_any_order_and_an_unknown_one_stops_the_load(monkeypatch):
    assert load_settings().strict == NO_STRICT_RULES
    monkeypatch.setenv("WRM_STRICT_RULES", " stale, over_capacity,")
    monkeypatch.setenv("WRM_SERVICE_AREA", "50,52,16,18")
    assert load_settings().strict == StrictRules(("over_capacity", "stale"), ServiceArea(50, 52, 16, 18))
    monkeypatch.setenv("WRM_STRICT_RULES", "stale,bikes_jump")
    with pytest.raises(SettingsError, match=r"WRM_STRICT_RULES='stale,bikes_jump': bikes_jump: no such rule; choose"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("WRM_ANOMALY_METHOD", "zscore", "should be 'robust_z' or 'isolation_forest'"),
        ("WRM_ANOMALY_CONTAMINATION", "0", "greater than 0"),
        ("WRM_ANOMALY_CONTAMINATION", "0.6", "less than or equal to 0.5"),
    ],
)
def test_a_wrong_way_to_find_anomalies_stops_the_load(monkeypatch, name, value, problem):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}='{value}': .*{problem}"):
        load_settings()


def test_the_first_date_is_one_answer_for_the_layout_and_for_dagster(monkeypatch):
    assert load_settings().layout.first_date == date(2025, 6, 1)
    monkeypatch.setenv("WRM_FIRST_DATE", "2024-02-29")
    layout = load_settings().layout
    assert layout.first_date == date(2024, 2, 29)
    assert "set WRM_FIRST_DATE=2024-02-28" in layout.not_a_partition(date(2024, 2, 28), date(2025, 1, 1))
    assert layout.not_a_partition(date(2024, 2, 29), date(2025, 1, 1)) == ""
    assert "move-future" in layout.not_a_partition(date(2025, 1, 2), date(2025, 1, 1))
    repository = build_defs(load_settings()).get_repository_def()
    by_day = [job.partitions_def for job in repository.get_all_jobs() if job.partitions_def]
    by_day += [node.partitions_def for node in repository.asset_graph.asset_nodes if node.partitions_def]
    assert {days.get_first_partition_key() for days in by_day} == {"2024-02-29"}
    assert len(by_day) >= 3


def test_the_feed_is_one_of_the_kinds(monkeypatch):
    assert load_settings().layout.feeds == ("ucl",)
    monkeypatch.setenv("WRM_FEEDS", "operator")
    monkeypatch.setenv("WRM_OPERATOR_URL", "https://user:canary-4711@example.org/locations")  # pragma: allowlist secret
    settings = load_settings()
    assert settings.layout.feeds == ("operator",)
    (client,) = FeedResource.of(settings).clients
    assert (client.kind.name, client.url) == ("operator", settings.operator_url)
    assert "canary" not in repr(FeedResource.of(settings))


def test_several_feeds_are_in_the_order_of_trust(monkeypatch):
    monkeypatch.setenv("WRM_FEEDS", "gbfs, ucl,operator")
    monkeypatch.setenv("WRM_GBFS_URL", "https://user:canary-4711@example.org/gbfs.json")  # pragma: allowlist secret
    settings = load_settings()
    assert [kind.name for kind in settings.feed_kinds] == ["gbfs", "ucl", "operator"]
    assert settings.layout.kinds == list(settings.feed_kinds)
    resource = FeedResource.of(settings)
    assert [(feed.kind, feed.url) for feed in resource.clients] == [
        (kind, settings.url_of(kind)) for kind in settings.feed_kinds
    ]
    assert "canary" not in json.dumps(resource.urls)
    assert len({feed.breaker.target for feed in resource.clients}) == 3


@pytest.mark.parametrize(
    ("feeds", "problem"),
    [
        ("nextbike", "names 'nextbike', which is not a kind of feed; give one or more of ucl, operator, gbfs"),
        ("ucl,", "names '', which is not a kind of feed"),
        ("ucl;operator", "names 'ucl;operator', which is not a kind of feed"),
        ("operator,ucl,operator", "names 'operator' twice"),
    ],
)
def test_feeds_that_are_unknown_or_repeated_stop_the_load(monkeypatch, feeds, problem):
    monkeypatch.setenv("WRM_FEEDS", feeds)
    with pytest.raises(SettingsError, match=f"WRM_FEEDS={feeds!r}: {problem}"):
        load_settings()


@pytest.mark.parametrize(
    "value",
    ["soon", "2025-6-1", "20250601", "2025-02-30", "1748736000", "2009-12-31", "2100-01-01", "2025-06-01T00:00"],
)
def test_a_first_date_that_is_none_stops_the_load_by_its_name(monkeypatch, value):
    monkeypatch.setenv("WRM_FIRST_DATE", value)
    with pytest.raises(SettingsError, match=f"WRM_FIRST_DATE='{re.escape(value)}': is not a date from 2010-01-01"):
        load_settings()
