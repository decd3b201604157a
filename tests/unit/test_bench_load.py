"""The pure parts of the load lab: schedules, mixes, statistics, records and the folds over them."""

import math

import numpy as np
import pytest
from load_runs import METRICS_PAGE, served, written

from zoetrope_bench.load import arrivals, metrics, mix, records, slo
from zoetrope_bench.load import statistics as statistic
from zoetrope_bench.load.folds import fold
from zoetrope_bench.load.records import Record, Sample


def steady(rate, seconds):
    return (arrivals.Segment(start=rate, end=rate, seconds=seconds),)


def test_poisson_arrivals_have_exponential_gaps_of_the_rate():
    moments = list(arrivals.times(steady(50.0, 400.0), arrivals.POISSON, 1))
    gaps = np.diff([0.0, *moments])
    assert len(moments) == pytest.approx(20_000, abs=4 * math.sqrt(20_000))
    ordered = np.sort(gaps)
    model = 1 - np.exp(-50.0 * ordered)
    shares = np.arange(1, len(gaps) + 1) / len(gaps)
    assert np.abs(model - shares).max() < 1.95 / math.sqrt(len(gaps)), "Kolmogorov and Smirnov at 0.1 %"
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / math.sqrt(len(gaps))


def test_the_same_seed_gives_the_same_schedule_and_another_one_another():
    first, again, other = (
        list(arrivals.times(steady(5.0, 20.0), arrivals.POISSON, seed)) for seed in (1, 1, 2)
    )
    assert first == again != other and all(0 <= moment < 20 for moment in first)


def test_constant_arrivals_are_even():
    assert list(arrivals.times(steady(4.0, 1.0), arrivals.CONSTANT, 0)) == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("kind", arrivals.KINDS)
def test_a_ramp_has_its_rate_at_each_moment(kind):
    ramp = arrivals.parse("0..200@50, 200@10, 200..0@50")
    moments = list(arrivals.times(ramp, kind, 3))
    assert moments == sorted(moments) and len(moments) == pytest.approx(12_000, rel=0.04)
    counts = np.histogram(moments, [0, 25, 50, 60, 85, 110])[0]
    assert counts == pytest.approx([1250, 3750, 2000, 3750, 1250], rel=0.1)


def test_a_pause_in_the_schedule_has_no_arrivals():
    moments = list(arrivals.times(arrivals.parse("10@1,0@5,10@1"), arrivals.CONSTANT, 0))
    assert len(moments) == 20 and not [moment for moment in moments if 1 <= moment < 6]


@pytest.mark.parametrize("text", ["", "5", "5@", "@5", "5@0", "-1@5", "nan@5", "5@inf", "5@1,"])
def test_a_schedule_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="RATE"):
        arrivals.parse(text)


def test_a_mix_draws_by_weight_and_by_seed(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8 picture")
    (tmp_path / "mix.yaml").write_text(
        "classes:\n"
        "  short: {weight: 3, image: photo.jpg, request: {num_inference_steps: 4}}\n"
        "  long: {weight: 1, image: photo.jpg}\n"
        "  never: {weight: 0, image: photo.jpg}\n"
    )
    classes = mix.read_mix(tmp_path / "mix.yaml")
    assert classes[0].picture == b"\xff\xd8 picture" and classes[0].fields == {"num_inference_steps": 4}
    draw, again = mix.Draw(classes, 5), mix.Draw(classes, 5)
    drawn = [draw().name for _ in range(4000)]
    assert drawn == [again().name for _ in range(4000)]
    assert drawn.count("short") == pytest.approx(3000, abs=120) and "never" not in drawn


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "classes"),
        ("classes: {}", "classes"),
        ("{classes: {a: {}}, more: 1}", "nothing else"),
        ("classes: {a: {wait: 1}}", "wait"),
        ("classes: {a: {weight: -1}}", "weight"),
        ("classes: {a: {weight: 0}}", "above 0"),
        ("classes: {a: {request: {steps: 4}}}", "num_inference_steps|steps"),
        ("classes: {a: {request: {num_inference_steps: 0}}}", "num_inference_steps"),
        ("classes: {all: {}}", "all"),
        ("classes: {a: {request: {1: 2}}}", "a"),
        ("classes: {a: [", "YAML"),
    ],
)
def test_a_mix_that_cannot_be_used_is_refused(tmp_path, text, said):
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(mix.BadMix, match=said):
        mix.read_mix(tmp_path / "mix.yaml")


def test_an_interval_holds_its_quantile_as_often_as_it_says():
    draw = np.random.default_rng(0)
    for level, truth in ((0.5, math.log(2)), (0.95, -math.log(0.05))):
        held = 0
        for _ in range(2000):
            found = statistic.quantile(draw.exponential(size=100), level)
            held += found.low <= truth <= found.high
        assert 0.94 < held / 2000 < 0.985, "at least 95 %: ranks are whole numbers"


@pytest.mark.parametrize(("level", "count"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_a_quantile_needs_its_number_of_samples(level, count):
    assert statistic.needed(level) == count
    assert statistic.quantile(range(count), level).high == count - 1
    assert statistic.quantile(range(count - 1), level).high is None


def test_a_quantile_is_the_order_statistic():
    assert [statistic.quantile(range(1, 21), level).value for level in (0.5, 0.9, 0.95, 0.99)] == [
        10,
        18,
        19,
        20,
    ]
    assert statistic.quantile([3.0, math.inf], 0.99).to_dict()["value"] is None


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (10, 4.7954, 18.3904), (100, 81.3637, 121.6271)],
)
def test_a_counted_rate_has_the_exact_interval(count, low, high):
    """Garwood's table."""
    assert statistic.poisson_interval(count) == pytest.approx((low, high), abs=1e-3)


def test_batch_means_hold_the_mean_of_a_series_whose_values_depend_on_each_other():
    draw, held = np.random.default_rng(1), 0
    for _ in range(300):
        noise, series = draw.normal(size=3000), [0.0]
        for step in noise:
            series.append(0.8 * series[-1] + step)
        mean, half = statistic.batch_means(series[1:])
        held += abs(mean) <= half
    assert held / 300 > 0.9, "an interval that took them as independent would hold it in half of the cases"


def test_records_come_back_as_they_were_written(tmp_path):
    first = served(
        0, 1.0, 2.5, timings={"denoise": 2.0, "total": 2.2}, size=(96, 64, 6), video_bytes=10, bytes=12
    )
    second = Record(index=1, request_class="a", intended=0.5, code="overloaded", status="UNAVAILABLE",
                    sent=0.5, ended=0.6, retry_after_s=2.0, message="full", warmup=True)  # fmt: skip
    sample = Sample(at=1.0, values={"zoetrope_waiting_requests": 3.0})
    run = written(tmp_path / "r.jsonl", [first, second], [sample])
    assert run.records == (second, first) and run.samples == (sample,) and not run.interrupted


def test_a_run_that_was_killed_is_read_to_its_last_whole_line(tmp_path):
    path = tmp_path / "r.jsonl"
    written(path, [served(0, 1.0, 2.0), served(1, 2.0, 2.0)], end=False)
    path.write_text(path.read_text()[:-20])
    run = records.read(path)
    assert len(run.records) == 1 and run.interrupted and run.seconds == 3.0
    assert "interrupted" in fold(run)["flags"][0]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"kind": "run", "version": 99}', "x\ny\n", '{"kind": "run", "version": 1}']
)
def test_a_file_that_is_no_run_is_refused(tmp_path, text):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(records.BadRecords):
        records.read(tmp_path / "r.jsonl")


def test_the_latency_counts_from_the_intended_time(tmp_path):
    run = written(tmp_path / "r", [served(0, 1.0, 3.0, sent=2.5)])
    body = fold(run)
    assert body["classes"]["all"]["latency"]["max"] == pytest.approx(3.0)
    assert body["generator"]["lag"]["max"] == pytest.approx(1.5) and body["generator"]["late"] == 1
    assert any("generator was late" in flag for flag in body["flags"])


def test_warm_up_and_what_was_not_served_stay_out_of_the_latencies(tmp_path):
    refused = Record(index=2, request_class="all", intended=3.0, sent=3.0, ended=3.1, code="overloaded",
                     status="UNAVAILABLE")  # fmt: skip
    unsent = Record(index=3, request_class="all", intended=4.0, code="unsent")
    entries = [served(0, 0.0, 50.0, warmup=True), served(1, 2.0, 1.0), refused, unsent]
    body = fold(written(tmp_path / "r", entries), slo.parse("p50<2s"))
    assert body["outcomes"] == {"served": 1, "refused": 1, "failed": 0, "abandoned": 1}
    assert body["classes"]["all"]["latency"]["count"] == 1 and body["classes"]["all"]["latency"]["max"] == 1.0
    assert body["offered"]["count"] == 3 and body["achieved"]["count"] == 2, (
        "the warm-up's video was finished"
    )
    assert body["slo"]["goodput"]["count"] == 1 and body["slo"]["share"] == pytest.approx(1 / 3)
    assert body["slo"]["met"] is False, "two of three were not served: the median is infinite"
    assert body["slo"]["quantile"]["value"] is None
    assert {(entry["code"], entry["count"]) for entry in body["ends"]} == {
        ("done", 1),
        ("overloaded", 1),
        ("unsent", 1),
    }


def test_stages_are_means_of_the_servers_timings_and_the_rest(tmp_path):
    entries = [served(n, n, 3.0, timings={"denoise": 1.0 + n, "total": 2.0}) for n in range(2)]
    stages = fold(written(tmp_path / "r", entries))["stages"]
    assert stages["denoise"]["mean_s"] == 1.5 and stages["queue and way"]["mean_s"] == pytest.approx(1.0)


def test_the_metrics_give_the_queue_and_the_videos_per_execution():
    pages = [METRICS_PAGE % counts for counts in ((100, 50, 0), (140, 60, 4), (140, 60, 2))]
    values = [metrics.read_metrics(text) for text in pages]
    assert values[0]["nv_inference_count:unet"] == 100 and "nv_gpu_utilization" not in values[0]
    samples = [Sample(at=float(at), values=entry) for at, entry in enumerate(values)]
    body = metrics.fold_metrics(samples)
    assert body["videos_per_execution"] == 4.0 and body["max_waiting"] == 4 and body["mean_waiting"] == 2
    assert [entry.get("videos_per_execution") for entry in body["series"]] == [None, 4.0, None]
