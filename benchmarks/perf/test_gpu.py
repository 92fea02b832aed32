"""What quantization costs a training step on a GPU."""

import pytest
import torch

from benchmarks.perf.test_ratios import problem, step
from frameworks import Policy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize("batch", [128, 1024])
def test_training_step_with_learned_ranges_over_the_float_step_on_a_gpu(compare, batch):
    """ResNet-20, 28 x 28, 4-bit weights and activations; five steps a round."""
    task = problem("resnet20").to(torch.device("cuda"))
    x, y = next(task.train.batches(batch))
    quantized, plain = task.quantized(), task.float_model()
    quantized.free(Policy.uniform(task.layers, 4, 4))

    def steps(network):
        one = step(network.train(), [p for p in network.parameters() if p.requires_grad], x, y)

        def run():
            for _ in range(5):
                one()
            torch.cuda.synchronize()

        return run

    compare(
        steps(quantized),
        steps(plain),
        rounds=10,
        title=f"training step with learned ranges over the float step on a GPU, batch {batch}",
        note=f"ResNet-20, 28 x 28, 4 bit weights and activations, {torch.cuda.get_device_name()}",
    )
