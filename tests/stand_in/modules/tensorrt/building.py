"""The builder's half: parser, network and profiles of TensorRT-RTX itself, and a plan without kernels."""

import pickle

import onnx
import stand_in_device as gpu
import tensorrt_rtx as real

from tensorrt.running import MAGIC

_PARSED = {}
"""The graph of each network, by the network's id; the network too, so that its id stays its own."""
MOST_FUSED = 256
NO_KERNEL = (
    "decompose_composite_ops.cpp:59: CHECK(composite_op->is_decomposable()) failed. "
    "Attention operation was not supported by a dedicated kernel."
)


class OnnxParser(real.OnnxParser):
    def __init__(self, network, logger):
        real.OnnxParser.__init__(self, network, logger)
        self._network = network

    def parse_from_file(self, path):
        parsed = real.OnnxParser.parse_from_file(self, path)
        if parsed:
            _PARSED[id(self._network)] = (self._network, onnx.load(path).SerializeToString())
        return parsed


class TimingCache:
    def __init__(self, data):
        self._data = bytes(data)

    def serialize(self):
        return self._data


class Config:
    """The real configuration, which forgets the profiles that it was given."""

    def __init__(self, config):
        object.__setattr__(self, "_config", config)
        object.__setattr__(self, "profiles", [])

    def __getattr__(self, name):
        return getattr(self._config, name)

    def __setattr__(self, name, value):
        if name == "progress_monitor":  # it would be of no use there: this builds nothing
            object.__setattr__(self, name, value)
        else:
            setattr(self._config, name, value)

    def create_timing_cache(self, data):
        """A build times nothing here; what was kept is kept."""
        return TimingCache(data or b"no times")

    def set_timing_cache(self, cache, ignore_mismatch):
        self.__dict__["timing_cache"] = cache
        return True

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return self._config.add_optimization_profile(profile)


class Builder(real.Builder):
    def __init__(self, logger):
        real.Builder.__init__(self, logger)
        self._logger = logger

    def create_builder_config(self):
        return Config(real.Builder.create_builder_config(self))

    def build_serialized_network(self, network, config):
        """A plan, or None with an error in the log, as the real one."""
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            if not all(monitor.step_complete("Building", step) for step in range(2)):
                return None
            monitor.phase_finish("Building")
        for why in (*_without_profile(network, config), *_without_kernel(network)):
            self._logger.log(self._logger.ERROR, why)
            return None
        plan = {
            "gpu": (gpu.device.name, gpu.device.major, gpu.device.minor),
            "graph": _PARSED[id(network)][1],
            "profiles": [ranges(network, profile) for profile in config.profiles],
            "tf32": config.get_flag(real.BuilderFlag.TF32),
        }
        return MAGIC + pickle.dumps(plan)


def inputs(network):
    return [network.get_input(index) for index in range(network.num_inputs)]


def ranges(network, profile):
    """The least, usual and largest shape of each input."""
    return {
        tensor.name: [tuple(shape) for shape in profile.get_shape(tensor.name)] for tensor in inputs(network)
    }


def _without_profile(network, config):
    """Texts of IBuilder::buildSerializedNetwork, Error Code 4: API Usage Error."""
    dynamic = [tensor.name for tensor in inputs(network) if -1 in tuple(tensor.shape)]
    if dynamic and not config.profiles:
        yield "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for profile in config.profiles:
        for name in dynamic:
            shapes = [tuple(shape) for shape in profile.get_shape(name)]
            if not shapes or any(list(ends) != sorted(ends) for ends in zip(*shapes, strict=True)):
                yield f"{name}: its optimization profile lacks values, or they are in no order"


def _without_kernel(network):
    """As `tensorrt_rtx` 1.7.1 builds: FP16 and BF16 up to a head dimension of 256 have fused kernels."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type != real.LayerType.ATTENTION_INPUT:
            continue
        query = layer.get_input(0)
        layer.__class__ = real.IAttentionInputLayer
        fused = query.dtype != real.float32 and query.shape[-1] <= MOST_FUSED
        if not (fused or layer.attention.decomposable):
            yield NO_KERNEL
