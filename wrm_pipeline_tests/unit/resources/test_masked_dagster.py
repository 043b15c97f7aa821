"""What Dagster keeps of runs, ticks and errors: in its databases, compute logs and answers, and no secret in any."""

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._utils.error import serializable_error_info_from_exc_info

from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.logs import get_logger
from wrm_pipeline.resources.masked_dagster import guard_dagster

SECRET = 'Zx81-correct"horse-4711'


class LibraryError(Exception):
    """One that makes its message of something else than its arguments."""

    def __str__(self) -> str:
        return f"answered {{'key': {SECRET!r}}}"


def answer() -> None:
    raise LibraryError


@dg.asset_check(asset="leaky")
def leaky_check() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"found {SECRET}",
        metadata={"found": SECRET},
    )


@dg.asset
def leaky(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
    guard_dagster()  # each of our processes begins with it
    print("printed", SECRET)  # noqa: T201
    print("complained", SECRET, file=sys.stderr)  # noqa: T201
    context.log.info("logged %s", SECRET)
    get_logger("wrm_pipeline.x").warning("logged", key=SECRET)
    return dg.MaterializeResult(
        metadata={
            "text": SECRET,
            "markdown": dg.MetadataValue.md(f"`{SECRET}`"),
            "json": {"inner": [SECRET]},
            "path": dg.MetadataValue.path(f"/x/{SECRET}"),
            "url": f"https://h/{SECRET}",
            "rows": 7,
        }
    )


@dg.asset(deps=[leaky])
def doomed() -> None:
    try:
        answer()
    except LibraryError as error:
        raise ValueError(f"it was {SECRET}", {"bytes": SECRET.encode()}) from error


def kept_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file below a folder as text; of databases the rows, too."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes().decode("utf-8", "replace")
        if path.suffix == ".db":
            with sqlite3.connect(path) as connection:
                yield f"rows of {path}", "\n".join(connection.iterdump())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((Path(__file__).parents[3] / "dagster.yaml").read_text())
    return home


def test_a_run_that_shows_a_secret_everywhere_leaves_it_nowhere(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    remember_secret(SECRET)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = dg.materialize([leaky, doomed, leaky_check], instance=instance, raise_on_error=False)
        assert not run.success
        events = [entry for entry in instance.all_logs(run.run_id) if entry.dagster_event]
        (made,) = [entry for entry in events if entry.dagster_event_type is dg.DagsterEventType.ASSET_MATERIALIZATION]
        metadata = made.asset_materialization.metadata if made.asset_materialization else {}
        assert (metadata["text"].value, metadata["rows"].value) == ("***", 7)
        assert metadata["json"].value == {"inner": ["***"]}
        failures = [entry for entry in events if entry.dagster_event_type is dg.DagsterEventType.STEP_FAILURE]
        assert "it was ***" in str(failures[0].dagster_event)
    texts = dict(kept_in(home)) | {"terminal": "".join(capfd.readouterr())}
    assert any("printed ***" in text for text in texts.values()), "the compute log is there"
    assert any("logged ***" in text for text in texts.values())
    for part in (SECRET, json.dumps(SECRET)[1:-1], "Zx81-cor", "horse-47"):
        assert [place for place, text in texts.items() if part in text] == []


def test_an_error_on_its_way_to_the_daemon_or_the_ui_is_masked_with_its_causes() -> None:
    guard_dagster()
    remember_secret(SECRET)
    try:
        try:
            answer()
        except LibraryError as error:
            raise RuntimeError(SECRET) from error
    except RuntimeError:
        info = serializable_error_info_from_exc_info(sys.exc_info())
    assert "RuntimeError: ***" in info.message
    assert info.cause is not None
    assert "horse" not in str(info)
    assert "raise RuntimeError(SECRET)" in str(info), "the rest of it is there"


def test_a_sensor_that_fails_tells_the_daemon_no_secret(home: Path) -> None:
    guard_dagster()
    remember_secret(SECRET)

    @dg.sensor(target=leaky)
    def failing() -> dg.SkipReason:
        raise LibraryError

    with dg.DagsterInstance.from_config(str(home)) as instance, pytest.raises(Exception) as caught:  # noqa: PT011
        failing(dg.build_sensor_context(instance))
    info = serializable_error_info_from_exc_info((type(caught.value), caught.value, caught.tb))
    assert "horse" not in str(info)


def test_what_dagster_has_to_find_again_is_left_alone(home: Path) -> None:
    guard_dagster()
    remember_secret("leaky_name_of_an_asset")

    @dg.asset(name="leaky_name_of_an_asset")
    def named() -> None: ...

    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert dg.materialize([named], instance=instance).success
        assert instance.get_latest_materialization_event(dg.AssetKey("leaky_name_of_an_asset")) is not None
