lock:
	uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-strip-extras --allow-unsafe -q -o requirements.lock
