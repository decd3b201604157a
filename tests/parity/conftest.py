"""Checkpoints, diffusers' frames and engines, each made once."""

from dataclasses import replace
from functools import cache, partial

import artifacts
import pytest
import torch
from parity import lab

from zoetrope_core.specs import STAGES
from zoetrope_export import exporting
from zoetrope_export.checkpoint import open_checkpoint
from zoetrope_export.engines import to_openvino
from zoetrope_export.onnx_graphs import FILE_NAME
from zoetrope_export.repository import stage_directory
from zoetrope_export.repository_key import repository_key
from zoetrope_server.engines import open_engine


def manifest_of(checkpoint, case):
    shape = case.architecture
    return checkpoint.manifest(
        engine="onnxruntime",
        precision="fp32",
        sizes=(shape.size,),
        num_frames=(shape.num_frames,),
        decode_chunk_size=case.fields["decode_chunk_size"],
        max_batch_size=2,
    )


class Bench:
    """One case with everything that is made of it, when it is asked for."""

    def __init__(self, case):
        self.case = case
        self.checkpoint = open_checkpoint(artifacts.checkpoint(case.architecture, seed=1))
        self.manifest = manifest_of(self.checkpoint, case)
        self.diffusers_frames = cache(partial(lab.diffusers_frames, self.checkpoint, self.manifest, case))
        self.engines = cache(self._engines)
        self._repository = cache(self._export)

    def _engines(self, engine, precision):
        if engine == "torch":
            return lab.torch_engines(self.checkpoint)
        folder = self._repository()
        return {
            name: open_engine(stage_directory(folder, name), stage, engine=engine, precision=precision)
            for name, stage in STAGES.items()
        }

    def _export(self):
        """A repository for ONNX Runtime, with OpenVINO's files beside the graphs."""
        plan = exporting.Plan(
            checkpoint=self.checkpoint, manifest=self.manifest, out=artifacts.store(), verify=False
        )

        def make(path):
            exporting.export_repository(replace(plan, out=path))
            for name in STAGES:
                folder = stage_directory(path, name)
                to_openvino(folder / FILE_NAME, folder / "model.xml")

        return artifacts.stored(f"parity-{repository_key(plan)}", make)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose all when another process has its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bench():
    """The bench of a case by its name."""
    return cache(lambda name: Bench(lab.CASES[name]))
