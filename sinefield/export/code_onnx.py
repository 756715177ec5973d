"""A shape field as an ONNX model: points (n, 3) in, signed distances (n,) out."""

from typing import Any

import numpy as np

from sinefield.errors import SinefieldError
from sinefield.plain.distance_network import DistanceNetwork
from sinefield.plain.network import BETA, LEAK
from sinefield.version import __version__

OPSET, IR_VERSION = 17, 8
"""Of 2022; every runtime since then takes them."""


def onnx_model(shape: DistanceNetwork) -> bytes:
    """The model: input `points` (n, 3) float32, output `sdf` (n,) float32, see `DistanceNetwork`.

    Raises:
        SinefieldError: the package onnx is absent.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ImportError as error:
        raise SinefieldError("OUT.onnx needs the package onnx: pip install onnx") from error
    graph = _Graph()
    points = "points"
    closest = graph.node("Min", graph.node("Max", points, graph.number(shape.low)), graph.number(shape.high))
    x = graph.node("Mul", graph.node("Sub", closest, graph.number(shape.centre)), graph.number(shape.scale))
    values = graph.node("Mul", _network(graph, shape, x), graph.number(shape.factor))
    out = graph.node("Sub", points, closest)
    away = graph.node("ReduceSum", graph.node("Mul", out, out), graph.whole([1]), keepdims=1)
    own = graph.node("Max", values, graph.number(0.0))
    bound = graph.node("Sqrt", graph.node("Add", away, graph.node("Mul", own, own)))
    beyond = graph.node("Greater", away, graph.number(0.0))
    chosen = graph.node("Where", beyond, bound, values)
    graph.node("Squeeze", chosen, graph.whole([1]), name="sdf")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "sdf",
            [helper.make_tensor_value_info("points", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info("sdf", TensorProto.FLOAT, ["n"])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="sinefield",
        producer_version=__version__,
    )
    model.ir_version = IR_VERSION
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _network(graph: "_Graph", shape: DistanceNetwork, x: str) -> str:
    """Encoding and layers; the first output as (n, 1)."""
    network = shape.network
    encoded = x
    if len(network.scales):
        phases = [graph.node("Mul", x, graph.number(scale)) for scale in network.scales]
        waves = [graph.node(kind, phase) for kind in ("Sin", "Cos") for phase in phases]
        encoded = graph.node("Concat", x, *waves, axis=1)
    h, last = encoded, len(network.matrices) - 1
    for i, (matrix, bias) in enumerate(zip(network.matrices, network.biases, strict=True)):
        if i in network.skips:
            h = graph.node("Concat", h, encoded, axis=1)
        rows = slice(None) if i < last else slice(1)
        h = graph.node("MatMul", h, graph.number(np.ascontiguousarray(matrix[rows].T)))
        h = graph.node("Add", h, graph.number(bias[rows]))
        if i < last:
            h = _activated(graph, shape, h)
    return h


def _activated(graph: "_Graph", shape: DistanceNetwork, z: str) -> str:
    config = shape.config
    if config.activation == "relu":
        return graph.node("Relu", z)
    if config.activation == "leaky_relu":
        return graph.node("LeakyRelu", z, alpha=float(LEAK))
    if config.activation == "sine":
        return graph.node("Sin", graph.node("Mul", z, graph.number(config.omega0)))
    if config.activation == "gaussian":
        return graph.node("Exp", graph.node("Mul", graph.node("Mul", z, z), graph.number(-0.5 / config.sigma**2)))
    scaled = graph.node("Softplus", graph.node("Mul", z, graph.number(BETA)))
    return graph.node("Mul", scaled, graph.number(1 / BETA))


class _Graph:
    """Nodes and constants as they are added, each named by its number."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operation; the name of its output."""
        from onnx import helper

        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def number(self, value: Any) -> str:
        """Add float32 numbers."""
        return self._constant(np.asarray(value, np.float32))

    def whole(self, value: Any) -> str:
        """Add whole numbers, which name axes."""
        return self._constant(np.asarray(value, np.int64))

    def _constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name
