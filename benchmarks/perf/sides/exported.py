"""An export at 224 px, in its own process: ``python -m benchmarks.perf.sides.exported ours|torch``.

``ours`` writes a quantized ResNet-18 as ONNX and checks it on eight images; ``torch`` is torch's
own export of the float network to ONNX, run on the same images. Prints the seconds (without imports
and calibration) and the peak of resident memory in MiB.
"""

import resource
import sys
import time

import torch

from benchmarks.export.form import Form
from benchmarks.export.graphs.runtime import outputs, session
from benchmarks.export.graphs.trace import INPUT, OPSET
from benchmarks.export.verify import verify
from benchmarks.models.build import ModelConfig, create
from frameworks import Policy, QModel, TensorSplit, describe, observe, schemes, torch_rng

SHAPE, IMAGES = (3, 224, 224), 8


def ours(network, images):
    layers = describe(network, SHAPE)
    calibration = observe(network, layers, images, torch_rng(0, "calibration"))
    model = QModel(network, layers, schemes.get("minmax")(), calibration)
    model.fix(Policy.uniform(layers, 4, 8)).eval()
    start = time.perf_counter()
    made = Form().write(model, SHAPE, images).model
    verdict = verify(model, made, TensorSplit(images, torch.zeros(IMAGES)))
    assert verdict.ok, verdict
    return time.perf_counter() - start


@torch.no_grad()
def peer(network, images):
    start = time.perf_counter()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        network, (images[:2],), dynamo=True, dynamic_shapes=batch, opset_version=OPSET,
        input_names=[INPUT], verbose=False,
    )  # fmt: skip
    outputs(session(program.model_proto), images)
    network(images)
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    network = create(ModelConfig(name="resnet18"), 10, SHAPE).eval()
    images = torch.randn(IMAGES, *SHAPE, generator=torch_rng(0, "perf"))
    seconds = {"ours": ours, "torch": peer}[sys.argv[1]](network, images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"\n{seconds} {peak}")
