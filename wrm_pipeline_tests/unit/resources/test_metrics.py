"""What an asset records through `metrics`, as the exporter shows it."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from wrm_pipeline.clients.errors import TransientError
from wrm_pipeline.clients.retry import REQUESTS
from wrm_pipeline.domain.masking import remember_secret
from wrm_pipeline.exporter.runs import RunSource
from wrm_pipeline.exporter.state_file import StateFile
from wrm_pipeline.exporter.vocabulary import Vocabulary
from wrm_pipeline.resources.metrics import MetricsResource, NotInARunError
from wrm_pipeline.settings import load_settings

WORDS = Vocabulary(("asset",), ("job",), ())


class Served(Collector):
    """A scrape of one source."""

    def __init__(self, source: RunSource) -> None:
        self.source = source

    def collect(self):
        yield from self.source.families(0)

    def text(self) -> list[str]:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry).decode().splitlines()


def source_of(instance: dg.DagsterInstance, folder: Path) -> RunSource:
    return RunSource(lambda: instance, WORDS, StateFile(folder / "runs.json"), metrics=folder / "metrics")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(instance: dg.DagsterInstance, body: Any, *, config: dict[str, Any] | None = None) -> bool:
    @dg.asset(name="asset")
    def asset(context: dg.AssetExecutionContext, metrics: MetricsResource) -> None:
        body(context, metrics)

    return dg.materialize(
        [asset],
        instance=instance,
        resources={"metrics": MetricsResource.of(load_settings())},
        run_config={"resources": {"metrics": {"config": config or {}}}},
        raise_on_error=False,
    ).success


def test_what_runs_record_adds_up_failed_ones_included(instance, environment):
    def body(context: Any, metrics: MetricsResource) -> None:
        requests = metrics.counter("rain_requests_total", "Requests to the rain", ["status"])
        requests.labels(status="ok").inc()
        requests.labels(status="ok").inc(2)
        metrics.histogram("rain_mm", "Millimetres", buckets=[1, 5]).observe(3)
        metrics.gauge("rain_level", "Level").set(4.5)
        with metrics.histogram("rain_seconds").time():
            pass
        if len(instance.get_runs()) > 1:
            raise ValueError("after it has counted")

    assert run(instance, body)
    assert not run(instance, body)
    source = source_of(instance, environment)
    source.collect()
    text = Served(source).text()
    assert 'rain_requests_total{status="ok"} 6.0' in text
    assert [line for line in text if line.startswith("rain_mm")] == [
        'rain_mm_bucket{le="1.0"} 0.0',
        'rain_mm_bucket{le="5.0"} 2.0',
        'rain_mm_bucket{le="+Inf"} 2.0',
        "rain_mm_count 2.0",
        "rain_mm_sum 6.0",
    ]
    assert "rain_level 4.5" in text
    assert "rain_seconds_count 2.0" in text
    assert "# HELP rain_mm Millimetres" in text
    assert list((environment / "metrics").iterdir()) == [], "what is in the event log needs no file"
    again = source_of(instance, environment)
    again.collect()
    assert Served(again).text() == text


def test_what_a_killed_process_has_left_is_counted_once(instance, environment):
    kept: list[bytes] = []

    def body(context: Any, metrics: MetricsResource) -> None:
        metrics.counter("hits").inc(5)
        kept.append(next((environment / "metrics").iterdir()).read_bytes())
        raise ValueError

    run(instance, body)
    (ended,) = instance.get_runs()
    folder = environment / "metrics"
    own = next(iter(entry.metadata for entry in engine_metadata(instance, ended.run_id)))["process"].value
    # One that died before it could report, and one that reported and died before it removed its file.
    (folder / f"{ended.run_id}.elsewhere-7.jsonl").write_bytes(kept[0])
    (folder / f"{ended.run_id}.{own}.jsonl").write_bytes(kept[0])
    source = source_of(instance, environment)
    source.collect()
    assert "hits_total 10.0" in Served(source).text()
    assert list(folder.iterdir()) == []
    source.collect()
    assert "hits_total 10.0" in Served(source).text()


def engine_metadata(instance: dg.DagsterInstance, run_id: str) -> list[Any]:
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    found = [entry.dagster_event.engine_event_data for entry in entries if entry.dagster_event]
    return [data for data in found if "process" in data.metadata]


def test_an_asset_that_is_observed_has_time_rows_and_requests(instance, environment):
    def body(context: Any, metrics: MetricsResource) -> None:
        with metrics.observe_asset(context) as observed:
            REQUESTS("s3", "get_object", "ok")
            observed.add_rows(7, dead_lettered=1)
            observed.add_rows(3)
            if len(instance.get_runs()) > 1:
                raise TransientError("away", "s3", "get")

    assert run(instance, body)
    assert not run(instance, body)
    source = source_of(instance, environment)
    source.collect()
    text = Served(source).text()
    assert 'wrm_rows_total{asset_name="asset",outcome="out"} 20.0' in text
    assert 'wrm_rows_total{asset_name="asset",outcome="dead_lettered"} 2.0' in text
    assert 'wrm_external_requests_total{operation="get_object",outcome="ok",target="s3"} 2.0' in text
    for outcome in ("success", "failure"):
        assert f'asset_block_seconds_count{{asset_name="asset",outcome="{outcome}"}} 1.0' in text


def test_a_run_may_have_fewer_series_and_another_folder(instance, environment, tmp_path):
    seen: list[Path] = []

    def body(context: Any, metrics: MetricsResource) -> None:
        counter = metrics.counter("hits", "", ["n"])
        for n in range(5):
            counter.labels(n=n).inc()
        seen.extend((tmp_path / "m").iterdir())

    assert run(instance, body, config={"max_series": 2, "folder": str(tmp_path / "m")})
    assert len(seen) == 1
    source = source_of(instance, environment)
    source.collect()
    assert 'hits_total{n="other"} 3.0' in Served(source).text()


def test_it_says_what_is_wrong(instance, environment):
    said: list[str] = []

    def body(context: Any, metrics: MetricsResource) -> None:
        for wrong in (
            lambda: metrics.counter("hits", "", ["n"]).inc(),
            lambda: metrics.counter("wrm_x"),
            lambda: metrics.counter("hits").inc(-1),
        ):
            with pytest.raises(ValueError) as caught:  # noqa: PT011 - looked at below
                wrong()
            said.append(str(caught.value))

    assert run(instance, body)
    assert said[0] == "labels of hits: declared are n, given are none. Give those declared"
    assert "'wrm_x' begins with" in said[1]
    assert "would let a counter fall" in said[2]
    with pytest.raises(NotInARunError, match="can only be recorded in a run"):
        MetricsResource.of(load_settings()).counter("hits")


def test_no_secret_is_in_a_label_or_a_text(instance, environment):
    secret = "s3cr3t-canary-of-a-label"  # pragma: allowlist secret
    remember_secret(secret)
    files: list[str] = []

    def body(context: Any, metrics: MetricsResource) -> None:
        metrics.counter("hits", f"Hits of {secret}", ["url"]).labels(url="x" * 190 + f"?key={secret}").inc()
        files.append(next((environment / "metrics").iterdir()).read_text())

    assert run(instance, body)
    source = source_of(instance, environment)
    source.collect()
    shown = "\n".join([*files, *Served(source).text(), (environment / "runs.json").read_text()])
    assert "hits_total{" in shown
    assert "s3cr3t" not in shown


def test_a_run_that_records_nothing_writes_nothing(instance, environment):
    assert run(instance, lambda *_: None)
    assert not (environment / "metrics").exists()
    assert engine_metadata(instance, instance.get_runs()[0].run_id) == []
