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
        name, cls = self.scheme.name, type(self.scheme)
        assert name in schemes.names(), (
            f"{name}: no quantizer of this name is registered; put @register_scheme above the "
            "class, and name the module in the entry points of the package"
        )
        assert schemes.get(name) is cls, (
            f"{name}: another class has this name, in {schemes.get(name).__module__}"
        )

    def test_codes_give_back_the_quantized_values(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                codes = quantizer.codes(x)
                who = _called(quantizer, bits)
                assert torch.equal(codes.code, codes.code.round()), (
                    f"{who}: codes gives {_example(codes.code)}: codes are whole numbers"
                )
                out = quantizer(x)
                assert out.shape == x.shape, (
                    f"{who} makes {tuple(out.shape)} of {tuple(x.shape)}: keep the shape"
                )
                assert out.dtype == x.dtype, f"{who} makes {out.dtype} of {x.dtype}: keep the type"
                back = codes.dequantize()
                assert torch.allclose(back, out, rtol=1e-5, atol=1e-6), (
                    f"{who}: its codes stand for values up to {float((back - out).abs().max())} "
                    "away from those that it gives: what is exported must be what was measured"
                )

    def test_codes_fit_into_their_bits(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                code = quantizer.codes(x).code
                who, levels = _called(quantizer, bits), len(set(code.flatten().tolist()))
                assert levels <= 2**bits, (
                    f"{who} has {levels} levels, and {bits} bits hold {2**bits}: clamp to the range"
                )
                reach = float(code.max() - code.min())
                assert reach <= 2**bits - 1, (
                    f"{who}: codes reach over {reach}, and {bits} bits over {2**bits - 1}: clamp "
                    "them to the range"
                )

    def test_sixteen_bits_are_allowed(self) -> None:
        for quantizer, x in self.quantizers(16):
            assert torch.isfinite(quantizer(x)).all(), (
                f"{_called(quantizer, 16)} gives values that are not finite: mind overflows of 2^16"
            )

    def test_more_bits_say_more(self) -> None:
        for position in range(len(self.quantizers(2))):
            errors = []
            for bits in (2, 4, 8):
                quantizer, x = self.quantizers(bits)[position]
                out = quantizer(x)
                # Schemes may rescale: what counts is the part that no scaling explains.
                errors.append(1 - float(torch.corrcoef(torch.stack([out, x]).flatten(1))[0, 1]))
            assert errors[0] > errors[1] > errors[2], (
                f"{_called(quantizer, 8)}: what no scaling explains of the error at 2, 4 and 8 "
                f"bits is {errors}: it must fall with more bits"
            )

    def test_is_deterministic_and_spares_global_randomness(self) -> None:
        before = global_random_state()
        for bits in (2, 8):
            for (first, x), (second, _) in zip(
                self.quantizers(bits), self.quantizers(bits), strict=True
            ):
                assert torch.equal(first(x), second(x)), (
                    f"{_called(first, bits)} gives other values when it is made again: draw from a "
                    "generator with a fixed seed"
                )
        assert global_random_state() == before, (
            "the quantizer drew from a global generator (random, numpy.random or torch): use one "
            "of its own with a fixed seed"
        )

    def test_gradients_pass_and_ranges_can_be_learned(self) -> None:
        for bits in BITS:
            for quantizer, x in self.quantizers(bits):
                who = _called(quantizer, bits)
                self._check_fixed(quantizer, f"{who}, new")
                quantizer.learn_range()
                learned = [p for p in quantizer.parameters() if p.requires_grad]
                leaf = x.clone().requires_grad_()
                quantizer(leaf).square().sum().backward()
                assert leaf.grad is not None, f"{who} passes no gradient: round straight through"
                assert torch.isfinite(leaf.grad).all(), f"{who}: a gradient is not finite"
                assert leaf.grad.abs().sum() > 0, (
                    f"{who} passes a gradient of zero: round straight through"
                )
                idle = [tuple(p.shape) for p in learned if p.grad is None]
                assert not idle, (
                    f"{who}: of what learn_range makes learnable, parameters of shapes {idle} get "
                    "no gradient: use them in forward, or leave them fixed"
                )
                quantizer.learn_range(False)
                self._check_fixed(quantizer, f"{who} after learn_range(False)")

    @staticmethod
    def _check_fixed(quantizer: Quantizer, who: str) -> None:
        learned = [name for name, p in quantizer.named_parameters() if p.requires_grad]
        assert not learned, f"{who}, learns {learned}: that is for learn_range() alone to begin"

    def test_works_in_a_network(self) -> None:
        problem = toy.make_problem(scheme=self.scheme.name)
        policy = problem.space.reference(4, 4)
        first, second = (problem.evaluate(policy), problem.at().evaluate(policy))
        assert first == second, (
            f"two evaluations of one policy differ: {first} and {second}: keep no state in forward"
        )
        trained = problem.fine_tune(policy).policy
        assert trained == policy, f"fine-tuning changed the bits: {trained}, not {policy}"

    def test_zero_bits_prune_and_float_passes(self) -> None:
        for quantizer, x in self.quantizers(PRUNED):
            assert not quantizer(x).any(), (
                f"{_called(quantizer, PRUNED)} gives {_example(quantizer(x))}: all are 0 at 0 bits"
            )
        for quantizer, x in self.quantizers(FLOAT):
            assert torch.equal(quantizer(x), x), (
                f"{_called(quantizer, FLOAT)} changes values: 32 bits stand for float"
            )

    def test_channels_of_different_bits(self) -> None:
        weight = self.weight()
        bits = (0, 2, 2, 4, 4, 8, 8, 32)
        quantizer = self.scheme.weight(weight, bits).eval()
        out = quantizer(weight)
        assert not out[0].any(), f"a channel of 0 bits holds {_example(out[0])}: it must be 0"
        assert torch.equal(out[7], weight[7]), "a channel of 32 bits changed: it stays float"
        for value in (2, 4, 8):
            rows = [i for i, b in enumerate(bits) if b == value]
            alone = self.scheme.weight(weight[rows], value).eval()
            away = float((out[rows] - alone(weight[rows])).abs().max())
            assert torch.allclose(out[rows], alone(weight[rows])), (
                f"channels of {value} bits lie up to {away} from what they are alone: bits of "
                "other channels must not count"
            )


def _called(quantizer: Quantizer, bits: int) -> str:
    return f"{type(quantizer).__name__} at {bits} bits"


def _example(values: Tensor) -> list[float]:
    """A few values for a message: those that are no whole numbers, or not 0, come first."""
    flat = values.detach().flatten()
    odd = flat[flat != flat.round()]
    return [round(v, 6) for v in (odd if len(odd) else flat[flat != 0])[:3].tolist()]
