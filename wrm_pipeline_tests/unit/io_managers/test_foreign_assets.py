"""Assets of anybody through each I/O manager, in a local folder."""

from __future__ import annotations

from wrm_pipeline_tests.io_manager_contract import ForeignAssetContract


class TestInAFolder(ForeignAssetContract):
    pass
