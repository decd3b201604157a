"""Everything that needs a GPU, in one run of a few minutes: `make gpu`.

    python -m zoetrope_bench.gpu.run [--parts 0,a,...] [--out DIRECTORY] [--toy]

Each part runs in a process of its own within its own time, and writes `DIRECTORY/gpu-PART.json` as it goes:
what it measured, what it checked, and which of its steps did not run, and why. With `--toy` the same code
runs on the CPU at tiny sizes, so that on the GPU the only new thing is the GPU.
"""
