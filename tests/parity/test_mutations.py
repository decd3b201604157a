"""The parity check has teeth: each mistake that is easy to make fails it.

`--log-cli-level=INFO` shows the PSNR of each.
"""

import logging
from contextlib import ExitStack

import pytest
from parity import lab
from parity.mutations import MUTATIONS, Setup

from zoetrope_core.specs import STAGES
from zoetrope_export.stage_modules import stage_module

CASE = "four"
_logger = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def modules(bench):
    return {name: stage_module(bench(CASE).checkpoint, name) for name in STAGES}


def frames_of(bench, modules, mutation):
    of = bench(CASE)
    with ExitStack() as stack:
        setup = mutation(Setup(manifest=of.manifest, modules=modules, stack=stack))
        return lab.zoetrope_frames(setup.manifest, setup.build(), of.case)


def test_the_pipeline_as_it_is_passes(bench, modules):
    lab.check_parity(bench(CASE).diffusers_frames(), frames_of(bench, modules, lambda setup: setup))


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_a_mistake_fails_the_check(bench, modules, mutation):
    expected, frames = bench(CASE).diffusers_frames(), frames_of(bench, modules, mutation)
    _logger.info("%s: %.1f dB", mutation.__name__, lab.psnr(expected, frames))
    with pytest.raises(AssertionError):
        lab.check_parity(expected, frames)
    # Far from the border: no luck with rounding makes the difference.
    assert lab.psnr(expected, frames) < 40.0
