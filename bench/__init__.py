"""The benchmark. `make bench` runs all of it; `python -m bench --help` says how to run parts.

| where | what |
| --- | --- |
| `main.py` | the steps, their order, Ctrl-C |
| `servers.py`, `catalog.py`, `seed.py` | what a run begins with: servers, mixes, states, lookups |
| `peers/` | the plain gateways that Tapedeck runs beside (`peers/plain/`: Go), and starting them |
| `workloads.py` | what listeners ask, as files of paths |
| `loadgen/`, `load.py` | the load generator in C, and running it |
| `measure.py` | CPU time, Redis commands, the CPU time of other processes |
| `lab.py` | one run: a peer under a workload becomes a record |
| `experiments/` | which runs: one file a question |
| `stats.py`, `targets.py` | percentiles, medians, paired ratios; targets and verdicts |
| `tables.py`, `plots.py`, `report.py` | what is shown of the records |
| `sessions.py` | ten thousand listeners against any running gateway, each answer checked |
| `hot_path.py`, `pieces.py` | CPU time of one warm worker, and what it is spent on |
"""
