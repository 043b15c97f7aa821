"""What every `ObjectStore` must do: subclass it, give it a fixture `store` that is an empty store."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from wrm_pipeline.clients.errors import ObjectNotFoundError
from wrm_pipeline.lake.object_store import ObjectStore

RAW = "bike-data/gen_info/raw/"


class ObjectStoreContract:
    race_turns = 3

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError

    def test_stored_content_comes_back_with_size_checksum_and_metadata(self, store):
        body = "Dworzec Główny".encode() * 1000
        put = store.put(f"{RAW}dt=2025-08-21/a.txt", body, metadata={"fetched-by": "run 7"})
        stat = store.stat(f"{RAW}dt=2025-08-21/a.txt")

        assert store.get(f"{RAW}dt=2025-08-21/a.txt") == body
        assert stat is not None
        assert (stat.key, stat.size_bytes, stat.etag) == (put.key, len(body), put.etag)
        assert dict(stat.metadata) == {"fetched-by": "run 7", "sha256": hashlib.sha256(body).hexdigest()}
        assert dict(put.metadata) == dict(stat.metadata)
        assert stat.last_modified.tzinfo is UTC
        assert abs(stat.last_modified - datetime.now(UTC)) < timedelta(seconds=30)
        assert abs(put.last_modified - stat.last_modified) <= timedelta(seconds=2)
        [listed] = store.list(RAW)
        assert (listed.key, listed.size_bytes, listed.etag) == (stat.key, stat.size_bytes, stat.etag)
        assert listed.last_modified.tzinfo is UTC

    def test_an_empty_object_is_an_object(self, store):
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert [(o.key, o.size_bytes) for o in store.list("")] == [("empty", 0)]

    def test_a_file_is_stored_like_its_bytes(self, store, tmp_path):
        body = bytes(range(256)) * 12_000  # 3 MB: several chunks
        (tmp_path / "day.parquet").write_bytes(body)
        put = store.put("day.parquet", tmp_path / "day.parquet", content_type="application/vnd.apache.parquet")
        assert put.size_bytes == len(body)
        assert put.metadata["sha256"] == hashlib.sha256(body).hexdigest()
        assert store.get("day.parquet") == body

    def test_absent_objects(self, store):
        assert store.stat("no/such") is None
        with pytest.raises(ObjectNotFoundError, match="no/such"):
            store.get("no/such")
        store.delete("no/such")
        assert list(store.list("no/")) == []
        assert store.list_folders("no/") == []

    def test_put_replaces_content_and_metadata(self, store):
        first = store.put("k", b"old!", metadata={"a": "1"})
        second = store.put("k", b"new!")
        assert store.get("k") == b"new!"
        assert second.etag != first.etag
        assert dict(store.stat("k").metadata) == {"sha256": hashlib.sha256(b"new!").hexdigest()}
        assert len(list(store.list(""))) == 1

    def test_delete_removes_and_may_be_repeated(self, store):
        store.put("a/b", b"1")
        store.delete("a/b")
        store.delete("a/b")
        assert store.stat("a/b") is None
        assert list(store.list("")) == []
        assert store.put_if_absent("a/b", b"2") is True

    def test_a_folder_goes_with_its_last_object(self, store):
        store.put("a/b", b"1")
        store.delete("a/b")
        assert store.list_folders("") == []

    def test_put_if_absent_never_overwrites(self, store):
        assert store.put_if_absent("raw/x.txt", b"first", metadata={"n": "1"}) is True
        assert store.put_if_absent("raw/x.txt", b"second", metadata={"n": "2"}) is False
        assert store.put_if_absent("raw/y.txt", b"first") is True
        assert store.put_if_absent("raw/y.txt", b"first") is False
        assert store.get("raw/x.txt") == b"first"
        assert dict(store.stat("raw/x.txt").metadata) == {"n": "1", "sha256": hashlib.sha256(b"first").hexdigest()}

    def test_of_sixteen_writers_of_one_key_one_wins(self, store):
        for turn in range(self.race_turns):
            start = threading.Barrier(16)

            def write(n: int, turn: int = turn, start: threading.Barrier = start) -> bool:
                start.wait()
                return store.put_if_absent(f"race/{turn}", b"writer %d" % n)

            with ThreadPoolExecutor(16) as executor:
                won = list(executor.map(write, range(16)))
            assert won.count(True) == 1
            assert store.get(f"race/{turn}") == b"writer %d" % won.index(True)

    def test_any_unicode_key_works(self, store):
        keys = ["Główny #1/50% + ąę.txt", "a b/c?d=e&f.txt", "łódź/日本🚲.txt", "q'u\"o;te/(1).txt"]
        for key in keys:
            store.put(key, key.encode())
        assert [o.key for o in store.list("")] == sorted(keys)
        assert dict(store.get_many(keys)) == {key: key.encode() for key in keys}
        assert store.list_folders("") == sorted(key.split("/")[0] + "/" for key in keys)
        assert all(store.stat(key).size_bytes == len(key.encode()) for key in keys)

    def test_keys_are_listed_in_byte_order(self, store):
        keys = ["B", "a", "aa/b/c", "aa/b-1", "aa-1", "aa0", "é", "ｆ", "🚲"]
        for key in keys:
            store.put(key, b".")
        assert [o.key for o in store.list("")] == sorted(keys, key=str.encode)
        for start_after in [*keys, "aa", "aa/", "aa/b", "aa/b/", "aa/z", "zz"]:
            expected = sorted((k for k in keys if k > start_after), key=str.encode)
            assert [o.key for o in store.list("", start_after=start_after)] == expected, start_after

    def test_prefixes_need_not_end_at_a_slash(self, store):
        for day in ("2025-08-01", "2025-08-02", "2025-09-01"):
            store.put(f"{RAW}dt={day}/a.txt", b".")
        store.put("bike-data/gen_info/raw.txt", b".")
        august = [f"{RAW}dt=2025-08-01/a.txt", f"{RAW}dt=2025-08-02/a.txt"]
        assert [o.key for o in store.list(f"{RAW}dt=2025-08")] == august
        assert store.list_folders(RAW) == [f"{RAW}dt=2025-0{d}/" for d in ("8-01", "8-02", "9-01")]
        assert store.list_folders(f"{RAW}dt=2025-09") == [f"{RAW}dt=2025-09-01/"]
        assert store.list_folders("bike-data/gen_info") == ["bike-data/gen_info/"]
        assert store.list_folders("bike-data/gen_info/") == [RAW]

    def test_more_keys_than_one_page_holds(self, store):
        day = f"{RAW}dt=2025-08-21/"
        keys = [f"{day}{n:04}.txt" for n in range(1030)]
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda key: store.put(key, key.encode()), keys))
        store.put(f"{RAW}dt=2025-08-22/0.txt", b".")

        assert [o.key for o in store.list(day)] == keys
        assert [o.key for o in store.list(day, start_after=keys[5])] == keys[6:]
        assert [o.key for o in store.list(day, start_after=keys[-1])] == []
        assert store.list_folders(RAW) == [day, f"{RAW}dt=2025-08-22/"]
        asked = keys[::-7]
        assert list(store.get_many(iter(asked))) == [(key, key.encode()) for key in asked]

    def test_get_many_ends_at_the_first_failure(self, store):
        store.put("1", b"1")
        store.put("3", b"3")
        bodies = store.get_many(["1", "2", "3"])
        assert next(bodies) == ("1", b"1")
        with pytest.raises(ObjectNotFoundError, match="2"):
            next(bodies)

    @pytest.mark.parametrize("metadata", [{"Fetched_At": "x"}, {"name": "Główny"}, {"name": "a\nb"}, {"name": " a"}])
    def test_metadata_that_http_headers_cannot_carry_is_refused(self, store, metadata):
        with pytest.raises(ValueError, match="HTTP header"):
            store.put("k", b"", metadata=metadata)
        assert store.stat("k") is None
