"""The names of the assets, defined once: checks, lineage, dead letters and sensors use these constants."""

RAW = "wrm_stations_raw_data"
PROCESSED = "wrm_stations_processed_data_all"
ENHANCED = "wrm_stations_enhanced_data_all"
DEAD_LETTERS = "wrm_stations_dlq"
VIEWS = "create_duckdb_enhanced_views"
MATERIALIZED_VIEWS = "create_materialized_views"
STATION_SUMMARY = "query_station_summary"
DENSITY = "bike_density_spatial_analysis"
DENSITY_MAP = "bike_density_map"
QUALITY = "data_quality"
CATALOG = "data_catalog"
REPORT = "city_report"
PUBLISHED_DATABASE = "published_database"
SERVING = "serving_tables"

STATIONS = (RAW, PROCESSED, ENHANCED)
"""Those whose dead letters a replay tries again."""
