"""Dagster's events as SQLite keeps them for `SharedSqliteEventLogStorage`: compressed, a tenth of their size.

An event is a kilobyte of JSON, nearly all of it the names of classes and fields, and the same in each. So zlib is given
a text to refer to, without which it reaches a third. What SQLAlchemy hands on is text both ways: only the column of
this storage's connections knows.
"""

import zlib
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

# Only events are packed: other values are compared in queries.
_MARK = '{"__class__": "EventLogEntry"'
# Stored in front of each, so that another text could follow one day. Never change a text: it is needed to read.
_FIRST = b"\x01"


def _entry(label: str, kind: str, value: str) -> str:
    return (
        f'{{"__class__": "EventMetadataEntry", "description": null, "entry_data": {{"__class__": "{kind}", {value}}}, '
        f'"label": "{label}"}}, '
    )


# What is likelier stands later: zlib's references to it are shorter.
_TEXT = "".join(
    (
        *(f'"event_type_value": "{name}", ' for name in ("STEP_INPUT", "LOADED_INPUT", "RUN_FAILURE", "STEP_FAILURE")),
        *(f'"event_type_value": "{name}", ' for name in ("PIPELINE_START", "PIPELINE_SUCCESS", "LOGS_CAPTURED")),
        '"event_specific_data": {"__class__": "AssetCheckEvaluationPlanned", "asset_key": {"__class__": "AssetKey", ',
        '"path": ["wrm_stations_enhanced_data_all"]}, "check_name": "", "partition": null}, ',
        '"event_type_value": "ASSET_CHECK_EVALUATION_PLANNED", ',
        '"event_specific_data": {"__class__": "AssetCheckEvaluation", "asset_key": {"__class__": "AssetKey", "path": [',
        '"blocking": true, "check_name": "is_fresh", "description": null, "metadata_entries": [], "partition": null, ',
        '"passed": true, "severity": {"__enum__": "AssetCheckSeverity.ERROR"}, ',
        '"target_materialization_data": ',
        '{"__class__": "AssetCheckEvaluationTargetMaterializationData", ',
        '"run_id": "", "storage_id": , "timestamp": }}, ',
        '"event_type_value": "ASSET_CHECK_EVALUATION", ',
        '"event_specific_data": {"__class__": "AssetMaterializationPlannedData", ',
        '"asset_key": {"__class__": "AssetKey", ',
        '"path": ["wrm_stations_processed_data_all"]}, "partition": "2026-", "partitions_subset": null}, ',
        '"event_type_value": "ASSET_MATERIALIZATION_PLANNED", ',
        '"event_specific_data": {"__class__": "EngineEventData", "error": null, "marker_end": "resources", ',
        '"marker_start": null, "metadata_entries": [',
        _entry("pid", "TextMetadataEntryData", '"text": "ms"'),
        _entry(":init_time", "PythonArtifactMetadataEntryData", '"module": "wrm_pipeline.resources.", "name": ""'),
        _entry("preview", "MarkdownMetadataEntryData", '"md_str": "|    | | --- | --- |\\n| '),
        '"event_type_value": "RESOURCE_INIT_SUCCESS", "event_type_value": "RESOURCE_INIT_STARTED", ',
        '"event_type_value": "ENGINE_EVENT", ',
        '"event_specific_data": {"__class__": "HandledOutputData", "manager_key": "", "metadata_entries": [',
        '"event_type_value": "HANDLED_OUTPUT", ',
        '"event_specific_data": {"__class__": "StepOutputData", "metadata_entries": [',
        '"step_output_handle": {"__class__": "StepOutputHandle", "mapping_key": null, "output_name": "result", ',
        '"step_key": "", "type_check_data": {"__class__": "TypeCheckData", "description": null, "label": "result", ',
        '"metadata_entries": [], "success": true}, "version": null}, "event_type_value": "STEP_OUTPUT", ',
        '"event_specific_data": {"__class__": "StepMaterializationData", "asset_lineage": [], "materialization": ',
        '{"__class__": "AssetMaterialization", "asset_key": {"__class__": "AssetKey", ',
        '"path": ["wrm_stations_raw_data"]',
        '}, "description": null, "metadata_entries": [',
        _entry("fetched_at", "TimestampMetadataValue", '"value": '),
        _entry("path", "PathMetadataEntryData", '"path": "'),
        _entry("page", "UrlMetadataEntryData", '"url": "'),
        _entry("handled_rows", "JsonMetadataEntryData", '"data": {"dead_lettered": 0, "duplicate": 0, "out": '),
        _entry("external_requests", "JsonMetadataEntryData", '"data": {}'),
        _entry("retries", "JsonMetadataEntryData", '"data": {"feed get ok": 1}'),
        _entry("unchanged", "BoolMetadataEntryData", '"value": true'),
        _entry("dagster/partition_row_count", "IntMetadataEntryData", '"value": '),
        '"partition": "2026-", "tags": {"dagster/code_version": "", "dagster/data_version": "", ',
        '"dagster/input_data_version/": ""}}}, "event_type_value": "ASSET_MATERIALIZATION", ',
        '{"__class__": "StepSuccessData", "duration_ms": }, "event_type_value": "STEP_SUCCESS", ',
        f'{_MARK}, "dagster_event": null, "error_info": null, "level": 20, "message": "", "pipeline_name": "',
        f'{_MARK}, "dagster_event": {{"__class__": "DagsterEvent", "event_specific_data": null, ',
        '"event_type_value": "STEP_START", "logging_tags": {"job_name": "wrm_stations_processing_job", "op_name": "", ',
        '"resource_fn_name": "None", "resource_name": "None", "run_id": "", "step_key": ""}, "message": "Finished ',
        'execution of step", "pid": 1, "pipeline_name": "wrm_stations_ingest_job", "solid_handle": {"__class__": ',
        '"SolidHandle", "name": "", "parent": null}, "step_handle": {"__class__": "StepHandle", "key": "", ',
        '"solid_handle": {"__class__": "SolidHandle", "name": "wrm_stations_raw_data", "parent": null}}, "step_key": ',
        '"wrm_stations_raw_data", "step_kind_value": "COMPUTE"}, "error_info": null, "level": 10, "message": "", ',
        '"pipeline_name": "wrm_stations_ingest_job", "run_id": "", "step_key": null, "timestamp": 17, "user_message": ',
    )
).encode()


def pack(text: str) -> bytes:
    """An event as it is stored."""
    compressor = zlib.compressobj(9, zdict=_TEXT)
    return _FIRST + compressor.compress(text.encode()) + compressor.flush()


def unpack(stored: bytes) -> str:
    """The event again.

    Raises:
        ValueError: the value is not one of `pack`, or is damaged.
    """
    if not stored.startswith(_FIRST):
        raise ValueError(f"An event begins with {stored[:1]!r}: a newer version has stored it. Update this one.")
    try:
        return zlib.decompressobj(zdict=_TEXT).decompress(stored[len(_FIRST) :]).decode()
    except zlib.error as error:
        raise ValueError(f"A stored event cannot be read: {error}. `wrm restore` brings back the history.") from None


class PackedText(sa.Text):
    """Text, of which SQLite keeps events packed; an unpacked one, from before, is read as it is."""

    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:  # noqa: ARG002 - SQLAlchemy's signature
        """What is stored."""
        return lambda value: pack(value) if isinstance(value, str) and value.startswith(_MARK) else value

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:  # noqa: ARG002
        """What is read."""
        return lambda value: unpack(value) if isinstance(value, bytes) else value


def use_packed_text(engine: sa.Engine) -> None:
    """Have an engine's text columns be `PackedText`."""
    engine.dialect.colspecs = {**engine.dialect.colspecs, sa.Text: PackedText}
