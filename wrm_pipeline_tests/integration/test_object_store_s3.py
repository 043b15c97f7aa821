from __future__ import annotations

import boto3
import pytest

from wrm_pipeline.clients.errors import PermanentError, StorageDeniedError
from wrm_pipeline.clients.retry import RequestCounter
from wrm_pipeline.lake.s3_stores import s3_object_store
from wrm_pipeline_tests.object_store_contract import ObjectStoreContract

pytestmark = pytest.mark.integration


def connect(seaweedfs, bucket, **changes):
    options = {
        "bucket": bucket,
        "endpoint_url": seaweedfs.endpoint_url,
        "access_key_id": seaweedfs.access_key_id,
        "secret_access_key": seaweedfs.secret_access_key,
    }
    return s3_object_store(**{**options, **changes})


class TestS3KeepsTheContractOnSeaweedFS(ObjectStoreContract):
    race_turns = 1  # its locks make sixteen writers of one key take 1-3 s

    @pytest.fixture
    def store(self, seaweedfs):
        return connect(seaweedfs, seaweedfs.create_bucket())

    def test_keys_are_listed_in_byte_order(self, store):
        """SeaweedFS alone sorts folder by folder: "aa/b" before "aa-1". Better an error than lost keys."""
        store.put("aa/b", b".")
        assert [o.key for o in store.list("")] == ["aa/b"]
        store.put("aa-1", b".")
        with pytest.raises(PermanentError, match="'aa-1' comes after 'aa/b'"):
            list(store.list(""))

    def test_a_folder_goes_with_its_last_object(self, store):
        """SeaweedFS alone keeps empty folders for a while."""
        store.put("a/b", b"1")
        store.delete("a/b")
        assert store.list_folders("") in ([], ["a/"])
        assert list(store.list("a/")) == []

    def test_a_create_only_write_costs_one_request(self, seaweedfs):
        counter = RequestCounter()
        store = connect(seaweedfs, seaweedfs.create_bucket(), on_event=counter)
        store.put_if_absent("first", b"1")
        assert counter.reset().requests == {
            ("s3", "stat", "ok"): 1,
            ("s3", "put_if_absent", "ok"): 1,
            ("s3", "probe", "ok"): 1,
        }
        assert store.honours_if_none_match is True
        store.put_if_absent("second", b"1")
        assert counter.reset().requests == {("s3", "put_if_absent", "ok"): 1}

    def test_an_upload_above_the_multipart_threshold_is_one_put(self, seaweedfs, tmp_path):
        bucket = seaweedfs.create_bucket()
        store = connect(seaweedfs, bucket)
        (tmp_path / "big").write_bytes(b"0123456789abcdef" * (20 << 16))  # 20 MB; multipart starts at 8
        put = store.put("big", tmp_path / "big")
        assert "-" not in put.etag  # a multipart ETag ends in -<parts>
        assert store.get("big") == (tmp_path / "big").read_bytes()

    def test_wrong_keys_are_refused_once_and_said_to_be_wrong(self, seaweedfs):
        counter = RequestCounter()
        bucket = seaweedfs.create_bucket()
        store = connect(seaweedfs, bucket, secret_access_key="canary", on_event=counter)
        for ask in (lambda: store.put("k", b""), lambda: store.get("k"), lambda: list(store.list(""))):
            with pytest.raises(StorageDeniedError, match=f"s3://{bucket}.*Check the S3 keys") as caught:
                ask()
            assert "canary" not in str(caught.value)
        assert sum(counter.snapshot().requests.values()) == 3

    def test_a_missing_bucket_is_named_with_what_to_do(self, seaweedfs):
        store = connect(seaweedfs, "no-such-bucket")
        with pytest.raises(PermanentError, match=r"no-such-bucket.*Create bucket"):
            list(store.list(""))

    def test_objects_of_other_programs_are_read(self, seaweedfs):
        bucket = seaweedfs.create_bucket()
        client = boto3.client(
            "s3",
            endpoint_url=seaweedfs.endpoint_url,
            aws_access_key_id=seaweedfs.access_key_id,
            aws_secret_access_key=seaweedfs.secret_access_key,
            region_name="us-east-1",
        )
        client.put_object(Bucket=bucket, Key="raw/dt=2025-08-21/a.txt", Body=b"rows")
        client.put_object(Bucket=bucket, Key="raw/dt=2025-08-22/", Body=b"")  # a console's "folder"
        store = connect(seaweedfs, bucket)
        assert [o.key for o in store.list("raw/")] == ["raw/dt=2025-08-21/a.txt"]
        assert store.get("raw/dt=2025-08-21/a.txt") == b"rows"
