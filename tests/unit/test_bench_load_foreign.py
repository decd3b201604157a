"""What other load generators print, as the comparison reads it; tests/e2e/test_load_lab.py runs them."""

import base64
import json

import pytest

from zoetrope_bench.load.foreign import ToolFailed, input_data, locust, perf_analyzer, read_locust
from zoetrope_bench.load.foreign import read_perf_analyzer as read

TABLE = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
2,2.5,10,90,100,200,799000,300,300,810000,820000,830000,840000
"""


def request(sent, *answered):
    return {"timestamp": sent, "response_timestamps": list(answered)}


def test_perf_analyzers_table_and_profile():
    requests = [request(0, 10_000_000, 800_000_000), request(5, 10_000_005, 820_000_005), request(9)]
    outcome = read(TABLE, {"experiments": [{"requests": requests}]})
    assert (outcome.requests, outcome.per_s, outcome.mean) == (3, 2.5, 0.8)
    assert (outcome.p50, outcome.p95) == (0.81, 0.83)
    assert outcome.first == 0.01 and outcome.last in (0.8, 0.81, 0.82)


def test_locusts_summary():
    entry = {
        "response_times": {"800.0": 3, "1200.0": 1},
        "num_requests": 4,
        "start_time": 100.0,
        "last_request_timestamp": 102.0,
        "total_response_time": 3600.0,
    }
    outcome = read_locust([entry])
    assert (outcome.requests, outcome.per_s, outcome.mean, outcome.p50) == (4, 2.0, 0.9, 0.8)
    with pytest.raises(ToolFailed, match="no request ended"):
        read_locust([])


def test_the_input_data_is_both_tensors():
    (row,) = input_data(b"\xff\xd8", {"seed": 1})["data"]
    assert base64.b64decode(row["image"]["content"][0]) == b"\xff\xd8"
    assert json.loads(row["request"]["content"][0]) == {"seed": 1}


def test_a_tool_that_is_missing_is_named(tmp_path):
    (tmp_path / "input.json").write_text("{}")
    with pytest.raises(ToolFailed, match="perf_analyzer"):
        perf_analyzer(tmp_path, "127.0.0.1:1", tmp_path / "input.json", streaming=True)
    with pytest.raises(ToolFailed, match="locust"):
        locust(tmp_path, "127.0.0.1:1", users=1, seconds=1, environment={})
