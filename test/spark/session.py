"""Runs SQL in one Spark session with the settings of the first argument: a JSON line {"sql": TEXT} in, one {"rows": [...]} or {"error": TEXT} out."""

import json
import sys

from pyspark.sql import SparkSession

builder = SparkSession.builder
for name, value in json.loads(sys.argv[1]).items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
for line in sys.stdin:
    try:
        answer = {"rows": [row.asDict(True) for row in spark.sql(json.loads(line)["sql"]).collect()]}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer, default=str), flush=True)
