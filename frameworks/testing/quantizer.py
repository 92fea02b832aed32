"""Contract tests that the author of a quantizer subclasses."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from frameworks.core.policy import FLOAT, PRUNED
from frameworks.core.quantizers.base import Float, Quantizer, Scheme
from frameworks.core.registry import schemes
from frameworks.testing import toy
from frameworks.testing.state import global_random_state

BITS = range(1, 9)


class SchemeContract:
    """What the suite relies on in every quantization scheme.

    Attributes:
        scheme: an instance.
    """

    scheme: ClassVar[Scheme]

    def weight(self) -> Tensor:
        """A weight ``[8, 6, 3, 3]`` whose channels have different ranges."""
        generator = torch.Generator().manual_seed(0)
        reach = torch.linspace(0.2, 1, 8).view(-1, 1, 1, 1)
        return torch.randn(8, 6, 3, 3, generator=generator) * reach

    def samples(self) -> list[Tensor]:
        """Activations after a ReLU, and with both signs."""
        x = torch.randn(4000, generator=torch.Generator().manual_seed(1))
        return [x.relu(), x]

    def quantizers(self, bits: int) -> list[tuple[Quantizer, Tensor]]:
        """Quantizers of weights and of activations, each with its data, in eval mode.

        What the scheme leaves at float (activations, in a scheme for weights) is left out.
        """
        weight = self.weight()
        pairs = [(self.scheme.weight(weight, bits), weight)]
        pairs += [(self.scheme.activation(x, bits), x) for x in self.samples()]
        return [(q.eval(), x) for q, x in pairs if bits == FLOAT or not isinstance(q, Float)]

    def test_is_registered(self) -> None:
        assert schemes.get(self.scheme.name) is type(self.scheme)

    def test_codes_give_back_the_quantized_values(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                codes = quantizer.codes(x)
                assert torch.equal(codes.code, codes.code.round())
                out = quantizer(x)
                assert out.shape == x.shape
                assert out.dtype == x.dtype
                assert torch.allclose(codes.dequantize(), out, rtol=1e-5, atol=1e-6)

    def test_codes_fit_into_their_bits(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                code = quantizer.codes(x).code
                assert len(set(code.flatten().tolist())) <= 2**bits
                assert float(code.max() - code.min()) <= 2**bits - 1

    def test_sixteen_bits_are_allowed(self) -> None:
        for quantizer, x in self.quantizers(16):
            assert torch.isfinite(quantizer(x)).all()

    def test_more_bits_say_more(self) -> None:
        for position in range(len(self.quantizers(2))):
            errors = []
            for bits in (2, 4, 8):
                quantizer, x = self.quantizers(bits)[position]
                out = quantizer(x)
                # Schemes may rescale: what counts is the part that no scaling explains.
                errors.append(1 - float(torch.corrcoef(torch.stack([out, x]).flatten(1))[0, 1]))
            assert errors[0] > errors[1] > errors[2]

    def test_is_deterministic_and_spares_global_randomness(self) -> None:
        before = global_random_state()
        for bits in (2, 8):
            for (first, x), (second, _) in zip(
                self.quantizers(bits), self.quantizers(bits), strict=True
            ):
                assert torch.equal(first(x), second(x))
        assert global_random_state() == before

    def test_gradients_pass_and_ranges_can_be_learned(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                assert not any(p.requires_grad for p in quantizer.parameters())
                quantizer.learn_range()
                learned = [p for p in quantizer.parameters() if p.requires_grad]
                leaf = x.clone().requires_grad_()
                quantizer(leaf).square().sum().backward()
                assert leaf.grad is not None
                assert torch.isfinite(leaf.grad).all()
                assert leaf.grad.abs().sum() > 0
                assert all(p.grad is not None for p in learned)
                quantizer.learn_range(False)
                assert not any(p.requires_grad for p in quantizer.parameters())

    def test_works_in_a_network(self) -> None:
        problem = toy.make_problem(scheme=self.scheme.name)
        policy = problem.space.reference(4, 4)
        first, second = (problem.evaluate(policy), problem.at().evaluate(policy))
        assert first == second
        assert problem.fine_tune(policy).policy == policy

    def test_zero_bits_prune_and_float_passes(self) -> None:
        for quantizer, x in self.quantizers(PRUNED):
            assert not quantizer(x).any()
        for quantizer, x in self.quantizers(FLOAT):
            assert torch.equal(quantizer(x), x)

    def test_channels_of_different_bits(self) -> None:
        weight = self.weight()
        bits = (0, 2, 2, 4, 4, 8, 8, 32)
        quantizer = self.scheme.weight(weight, bits).eval()
        out = quantizer(weight)
        assert not out[0].any()
        assert torch.equal(out[7], weight[7])
        for value in (2, 4, 8):
            rows = [i for i, b in enumerate(bits) if b == value]
            alone = self.scheme.weight(weight[rows], value).eval()
            assert torch.allclose(out[rows], alone(weight[rows]))
