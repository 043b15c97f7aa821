"""Runs data contracts where `datacontract-cli` is installed: arguments are files, results go to stdout as JSON.

By file and object, the checks by name with their results. Each object is looked for where its kind says it lies.
"""

import json
import sys
from pathlib import Path

from datacontract.data_contract import DataContract

SERVERS = {"file": "lake", "view": "database"}


def results(file: str) -> dict[str, dict[str, str]]:
    """The result of each check of each object of a contract."""
    objects = json.loads(Path(file).read_text())["schema"]
    found = {}
    for described in objects:
        server = SERVERS[described["physicalType"]]
        run = DataContract(data_contract_file=file, server=server, schema_name=described["name"]).test()
        found[described["name"]] = {check.name: check.result.value for check in run.checks}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps({file: results(file) for file in sys.argv[1:]}) + "\n")
