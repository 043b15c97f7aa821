"""Code locations that are loaded beside wrm_pipeline and use its resources."""
