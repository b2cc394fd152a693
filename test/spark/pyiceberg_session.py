"""pyiceberg on a REST catalog with the properties of the first argument, as `catalog`: a JSON line {"code": TEXT} in, which is executed, one {"answer": ...} or {"error": TEXT} out."""

import json
import sys

import pyarrow  # for what is executed
from pyiceberg.catalog import load_catalog

catalog = load_catalog("penstock", **json.loads(sys.argv[1]))
for line in sys.stdin:
    names = {"catalog": catalog, "pyarrow": pyarrow, "answer": None}
    try:
        exec(json.loads(line)["code"], names)
        reply = {"answer": names["answer"]}
    except Exception as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(reply, default=str), flush=True)
