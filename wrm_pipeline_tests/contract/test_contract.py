"""The exported data contract, run by datacontract-cli against the lake and the database: what holds, and what fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from wrm_pipeline_tests.fixtures.lake import DAY, Lake, build_day, materialize
from wrm_pipeline_tests.fixtures.markdown import ROOT

VENV = ROOT / ".venv-contract"
VIEW = "wrm_stations_enhanced_data"
# The checks that read rows by our SQL; the tool has others of its own.
OF_ALL = {
    "station_id is neither null nor empty",
    "lat is from -90.0 to 90.0",
    "lon is from -180.0 to 180.0",
    "bikes is from 0 to 100,000",
    "feed is one of ucl, operator, gbfs",
    "Unique on station_id and file_timestamp",
    "Unique on station_id and timestamp in each snapshot",
}


def run_contracts(folder: Path, *files: Path) -> list[dict[str, dict[str, str]]]:
    """Results by object and check, for each contract; in a process without a network."""
    program = [str(VENV / "bin" / "python"), "-m", "wrm_pipeline_tests.contract.run_contracts", *map(str, files)]
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = {**nowhere, "HOME": str(folder), "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return [found[str(file)] for file in files]


def spoil(rows: pa.Table) -> pa.Table:
    """A row twice, one beyond the pole, and one without an id."""
    lat = pc.if_else(pc.equal(rows["station_id"], "15002"), 95.0, rows["lat"])
    ids = pc.if_else(pc.equal(rows["station_id"], "15003"), "", rows["station_id"])
    spoilt = rows.set_column(rows.schema.get_field_index("lat"), "lat", lat)
    spoilt = spoilt.set_column(rows.schema.get_field_index("station_id"), "station_id", ids)
    return pa.concat_tables([spoilt, spoilt.slice(0, 1)])


@pytest.mark.skipif(not (VENV / ".ready").exists(), reason="datacontract-cli is missing: `make .venv-contract/.ready`")
def test_the_contract_holds_of_the_lake_and_the_database_and_fails_where_rows_are_wrong(lake: Lake) -> None:
    days: list[date] = [DAY - timedelta(days=1), DAY]
    for day in days:
        lake.put_day(2, dt=day)
        build_day(day)
    materialize("create_duckdb_enhanced_views", "data_quality")
    folder = lake.settings.data_dir
    contract = folder / "contract.json"
    contract.write_bytes(lake.store.get(lake.layout.report_key("data_contract.odcs.json")))
    # The same contract of other files. Its view is that of the good ones.
    spoilt = folder / "spoilt.json"
    spoilt.write_text(contract.read_text().replace('"lake/', '"spoilt/'))
    shutil.copytree(folder / "lake", folder / "spoilt")
    for layer in ("processed", "enhanced"):
        file = folder / "spoilt" / lake.partition_key(layer)
        pq.write_table(spoil(pq.ParquetFile(file).read()), file)

    good, bad = run_contracts(folder, contract, spoilt)

    assert set(good) == {"processed", "enhanced", VIEW}
    for name, checks in good.items():
        assert checks.keys() >= OF_ALL, name
        assert not {"failed", "error"} & set(checks.values()), name
        assert {checks[check] for check in OF_ALL} == {"passed"}, name
    assert len([check for check in good[VIEW] if " has type " in check or " has physical type " in check]) > 20
    for layer in ("processed", "enhanced"):
        failed = {check for check, result in bad[layer].items() if result == "failed"}
        assert failed & OF_ALL == {
            "station_id is neither null nor empty",
            "lat is from -90.0 to 90.0",
            "Unique on station_id and file_timestamp",
            "Unique on station_id and timestamp in each snapshot",
        }
    assert bad[VIEW] == good[VIEW]
