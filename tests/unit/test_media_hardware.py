"""Hardware encoders: probed by encoding, and replaced by software where they cannot be opened."""

import logging

import pytest
from clips import moving

from zoetrope_server.media.encode import VideoEncoder, encode_video
from zoetrope_server.media.formats import HARDWARE_SPECS
from zoetrope_server.media.hardware import HardwareEncoders
from zoetrope_server.settings import OrchestratorSettings


def test_they_are_off_unless_asked_for(monkeypatch):
    assert OrchestratorSettings().hardware_encoders == "off"
    monkeypatch.setenv("ZOETROPE_HARDWARE_ENCODERS", "auto")
    assert OrchestratorSettings().hardware_encoders == "auto"


def test_the_probe_says_of_each_what_it_found(caplog):
    with caplog.at_level(logging.INFO):
        found = HardwareEncoders.probed()
    assert found.keys <= set(HARDWARE_SPECS)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(HARDWARE_SPECS) and all("nvenc" in line for line in said)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("codec", ["h264", "h265", "av1"])
def test_one_that_cannot_be_opened_leaves_it_to_the_software_and_says_so_once(codec, streams, caplog):
    """Frames smaller than any GPU's encoder takes: nothing opens, with a GPU or without."""
    clip, everything = moving(4, 34, 34), HardwareEncoders(HARDWARE_SPECS)
    files = []
    for _ in range(2):
        with VideoEncoder(fps=7, codec=codec, streams=streams, hardware=everything) as encoder:
            encoder.add(clip)
            files.append(encoder.take() + encoder.finish())
    with VideoEncoder(fps=7, codec=codec, streams=streams) as encoder:
        encoder.add(clip)
        assert files == [encoder.take() + encoder.finish()] * 2
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "software encodes instead" in warnings[0].getMessage()


def test_formats_without_one_are_not_touched():
    everything = HardwareEncoders(HARDWARE_SPECS)
    with VideoEncoder(fps=7, format="webm", hardware=everything) as encoder:
        encoder.add(moving(3))
        assert encoder.finish() == encode_video([moving(3)], fps=7, format="webm")
