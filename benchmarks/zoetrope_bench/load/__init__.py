"""The load lab: a schedule of arrivals, an attack that keeps to it, raw records, and folds over them.

    python -m zoetrope_bench.load --rate 2 --duration 60 --slo 'p95<2s' --json FILE

The way of the data: `arrivals` (when) and `mix` (what) -> `attack` over a `target` -> `records` (JSON lines,
written first) -> `folds` -> `summary`, `page`, `compare`. Every figure is a fold over the records, and
`--from FILE` folds again.
"""
