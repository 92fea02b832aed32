import copy
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from frameworks.core.budget import BudgetSpec
from frameworks.core.evaluation.distillation import distillation
from frameworks.core.evaluation.evaluate import Score, measure
from frameworks.core.evaluation.train import Recipe
from frameworks.core.networks.calibrate import observe
from frameworks.core.networks.correction import reestimate_batchnorm
from frameworks.core.policy import FLOAT, Policy
from frameworks.core.problem import Data, DataForbidden, Problem
from frameworks.core.randomness import derive, torch_rng
from frameworks.testing import toy
from frameworks.testing.placement import some_gpu


@pytest.fixture
def problem():
    return toy.make_problem()


def state(net):
    return {name: x.clone() for name, x in net.state_dict().items()}


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def naive(problem, policy):
    """Quantize weights in place and inputs by hooks, re-estimate BatchNorm, count."""
    net = copy.deepcopy(problem.network)
    inputs = observe(net, problem.layers, problem.images, torch_rng(problem.seed, "calibration"))
    for layer in problem.layers:
        module, bits = net.get_submodule(layer.name), policy[layer.name]
        with torch.no_grad():
            weight = problem.scheme.weight(module.weight.detach(), bits.weight)(module.weight)
            module.weight.copy_(weight)
        quantizer = problem.scheme.activation(inputs.samples[layer.name], bits.act)
        module.register_forward_pre_hook(lambda module, args, q=quantizer: (q(args[0]),))

    def take(module, args):
        module.running_mean.copy_(args[0].mean((0, 2, 3)))
        module.running_var.copy_(args[0].var((0, 2, 3)))

    norms = [module for module in net.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    with torch.no_grad():
        net(problem.images)
        for handle in handles:
            handle.remove()
        logits = net(problem.valid.x)
    right = (logits.argmax(1) == problem.valid.y).sum()
    loss = functional.cross_entropy(logits, problem.valid.y)
    return Score(100 * int(right) / len(problem.valid), float(loss))


@pytest.mark.parametrize("kind", [toy.ToyConvNet, toy.ToyViT])
@pytest.mark.parametrize("scheme", ["mse", "minmax"])
def test_evaluation_equals_the_naive_way(kind, scheme):
    problem = toy.make_problem(kind=kind, scheme=scheme, bn="reestimate")
    rng = problem.rng()
    for policy in [problem.space.reference(3, 3)] + [problem.space.sample(rng) for _ in range(3)]:
        score, expected = problem.evaluate(policy), naive(problem, policy)
        # The last bits of the logits may differ, so one image may be a tie.
        assert abs(score.accuracy - expected.accuracy) < 1
        assert score.loss == pytest.approx(expected.loss, rel=1e-3)


def test_evaluation_of_channel_bits_equals_the_naive_way():
    problem = toy.make_problem(bn="reestimate")
    bits = (2, 4, 8, 0, 2, 4, 8, 3)
    policy = problem.space.reference(4, 4).replace("blocks.0.conv2", weight=bits)
    assert problem.evaluate(policy).loss == pytest.approx(naive(problem, policy).loss, rel=1e-3)


def test_evaluation_is_metered_and_cached(problem):
    policy = problem.space.lowest()
    score = problem.evaluate(policy)
    spent = problem.meter.read()
    assert (spent.policies, spent.images_backward) == (1, 0)
    # Ranges, the control variate, the correction, the validation images.
    assert spent.images_forward == 64 + 64 + 64 + 128
    assert problem.evaluate(Policy(dict(policy))) == score
    assert problem.meter.images_forward == spent.images_forward
    problem.evaluate(problem.space.highest())
    assert problem.meter.policies == 2
    assert problem.meter.images_forward == spent.images_forward + 64 + 128


def test_evaluation_refuses_policies_outside_the_space(problem):
    for policy in (
        Policy.uniform(problem.layers, 4, 4),
        problem.space.reference(7, 7),
        Policy({"stem": (8, 8)}),
    ):
        with pytest.raises(ValueError, match="policy:"):
            problem.evaluate(policy)
    assert problem.meter.policies == 0


def test_retraining_happens_only_where_the_protocol_trains():
    recipe, count = Recipe(epochs=0.5, batch=32), 128
    for retrains in (False, True):
        problem = toy.make_problem(retrains=retrains)
        policy = problem.space.reference(3, 3)
        scores = [problem.evaluate(policy, recipe) for _ in range(2)]
        assert scores[0] == scores[1]
        assert problem.meter.images_backward == (count if retrains else 0)
        assert problem.meter.policies == 1
    assert problem.evaluate(policy) != scores[0]


def test_equal_policies_retrained_by_equal_recipes_are_scored_once():
    problem = toy.make_problem(retrains=True)
    policy, recipe = problem.space.reference(3, 3), Recipe(epochs=0.5, batch=32)
    first = problem.evaluate(policy, recipe)
    spent = problem.meter.read()
    again = problem.evaluate(problem.space.reference(3, 3), Recipe(epochs=0.5, batch=32))
    assert again is first
    assert problem.meter.images_forward == spent.images_forward
    # From scratch they come out the same, so that nothing is lost.
    assert problem.at().evaluate(policy, recipe) == first
    longer = problem.evaluate(policy, Recipe(epochs=1, batch=32))
    assert longer != first
    assert problem.meter.policies == 2
    problem.evaluate(problem.space.reference(4, 4), recipe)
    assert problem.meter.policies == 3


def test_fine_tuning(problem):
    policy, before = problem.space.reference(3, 3), state(problem.network)
    recipe = Recipe(epochs=4, batch=32, lr=0.02)
    tuned = problem.fine_tune(policy, recipe)
    assert tuned.policy == policy
    assert not tuned.training
    assert equal(state(problem.network), before)
    assert problem.meter.images_backward == 4 * 256
    assert problem.meter.images_forward == 64 + 64 + 64 + 4 * 256 + len(problem.train)  # statistics
    start = problem.quantized().free(policy)
    for name, layer in tuned.qlayers():
        assert not torch.equal(layer.inner.weight, start.qlayer(name).inner.weight)
        assert not torch.equal(layer.act_quantizer.step, start.qlayer(name).act_quantizer.step)
    untuned = problem.evaluator().apply(policy)
    assert measure(tuned, problem.train).loss < measure(untuned, problem.train).loss


def test_statistics_after_training_are_those_of_eval_mode(problem):
    """Not the running averages over batches that were normalised by their own statistics."""
    policy, recipe = problem.space.reference(2, 2), Recipe(epochs=2, batch=32, lr=0.05)
    tuned = problem.fine_tune(policy, recipe)
    inputs = {}
    norms = [(n, m) for n, m in tuned.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for name, norm in norms:
        norm.register_forward_hook(lambda _, x, out, name=name: inputs.update({name: x[0]}))
    with torch.no_grad():
        tuned(problem.train.images())
    for name, norm in norms:
        x = inputs[name].double()
        torch.testing.assert_close(norm.running_mean.double(), x.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var.double(), x.var((0, 2, 3)))
    as_trained = problem.at(bn="stored").fine_tune(policy, recipe)
    assert not torch.allclose(as_trained.model.bn.running_mean, tuned.model.bn.running_mean)
    assert as_trained.model.bn.num_batches_tracked > 0


@pytest.mark.parametrize(
    ("recipe", "held", "images"),
    [
        (Recipe(epochs=0.5, batch=32), 10**6, 128),  # no more than were trained on
        (Recipe(epochs=3, batch=32), 10**6, 200),  # the most
        (Recipe(epochs=3, batch=32), 150, 150),  # what one pass holds
        (Recipe(epochs=3, batch=32), 3, 100),  # the fewest
        (Recipe(epochs=3, batch=32, images=64), 10**6, 192),
        (Recipe(epochs=0), 10**6, 0),
    ],
)
def test_images_of_statistics_after_training(problem, monkeypatch, recipe, held, images):
    monkeypatch.setattr("frameworks.core.problem.STATISTICS_IMAGES", (100, 200))
    monkeypatch.setattr("frameworks.core.problem.images_at_once", lambda *_: held)
    seen = []
    monkeypatch.setattr(
        "frameworks.core.problem.reestimate_batchnorm", lambda model, x: seen.append(len(x))
    )
    problem.fine_tune(problem.space.lowest(), recipe)
    assert sum(seen) == images


def own_images(seed=0, count=6, size=32):
    """Batches of a method's own, of which no split knows."""
    generator = torch_rng(seed, "own")
    return [
        (torch.randn(size, *toy.SHAPE, generator=generator), torch.arange(size) % toy.CLASSES)
        for _ in range(count)
    ]


def test_fine_tuning_by_a_teacher(problem):
    """Both ways to name it train the same network, and its images count."""
    policy, recipe = problem.space.reference(3, 3), Recipe(epochs=1, batch=32, lr=0.02)
    plain = problem.fine_tune(policy, recipe)
    spent = problem.meter.read()
    network = state(problem.network)
    hooks = len(problem.network._forward_hooks)
    tuned = [
        problem.fine_tune(policy, recipe, teacher="float"),
        problem.fine_tune(policy, recipe, teacher=problem.network),
        problem.fine_tune(policy, recipe, teacher=problem.float_model()),
        problem.fine_tune(policy, recipe, loss=distillation("float", 4.0, 0.9)),
    ]
    assert all(equal(state(tuned[0]), state(other)) for other in tuned[1:])
    assert not equal(state(tuned[0]), state(plain))
    assert equal(state(problem.network), network)
    assert len(problem.network._forward_hooks) == hooks
    trained = problem.meter.read().images_forward - spent.images_forward
    # Each: training, the teacher, the statistics. Ranges and the correction are known.
    assert trained == 4 * (64 + 256 + 256 + 256)
    assert problem.meter.images_backward == 5 * 256


def test_a_teacher_brings_the_student_nearer_to_it(problem):
    policy, recipe = problem.space.reference(2, 2), Recipe(epochs=5, batch=32, lr=0.02)
    images, apart = problem.train.images(), []
    for how in ({}, {"loss": distillation(temperature=2.0, weight=1.0)}):
        student = problem.fine_tune(policy, recipe, **how)
        with torch.no_grad():
            found, wanted = ((m(images) / 2).log_softmax(1) for m in (student, problem.network))
        apart.append(float(functional.kl_div(found, wanted, log_target=True, reduction="sum")))
    assert apart[1] < 0.8 * apart[0]


def test_fine_tuning_by_ones_own_loss_and_transform(problem):
    policy, recipe = problem.space.reference(3, 3), Recipe(epochs=1, batch=32, lr=0.02)
    plain = problem.fine_tune(policy, recipe)
    same = problem.fine_tune(
        policy,
        recipe,
        loss=lambda model, x, y: functional.cross_entropy(model(x), y),
        transform=lambda x, y, generator: (x, y),
        loader=lambda generator: problem.train.batches(32, generator),
    )
    assert equal(state(plain), state(same))
    one, two, other = (
        problem.fine_tune(policy, recipe, axis=axis, transform=noisy)
        for axis in ("fine-tune", "fine-tune", "other")
    )
    assert equal(state(one), state(two))
    assert not equal(state(one), state(other))
    assert not equal(state(one), state(plain))


def noisy(x, y, generator):
    return x + torch.randn(x.shape, generator=generator).to(x.device), y


def test_a_loader_of_ones_own_needs_no_training_images():
    """Statistics are then of its images, as they were before they were transformed."""
    problem = toy.make_problem(needs=("calibration", "valid"))
    batches, policy = own_images(), problem.space.reference(3, 3)
    recipe = Recipe(epochs=1, batch=32, lr=0.02)
    tuned = problem.fine_tune(policy, recipe, loader=batches, transform=noisy)
    assert problem.meter.images_forward == 64 + 64 + 64 + 2 * 6 * 32
    inputs = []
    tuned.model.bn.register_forward_hook(lambda _, x, out: inputs.append(x[0]))
    with torch.no_grad():
        tuned(torch.cat([x for x, _ in batches]))
    torch.testing.assert_close(tuned.model.bn.running_mean, inputs[0].mean((0, 2, 3)))
    with pytest.raises(DataForbidden, match="may not read 'train'"):
        problem.fine_tune(policy, recipe, transform=noisy)
    with pytest.raises(ValueError, match=r"say with recipe\.images"):
        problem.fine_tune(policy, recipe, loader=lambda generator: iter(batches))


@pytest.mark.parametrize(
    ("held", "images"), [(10**6, 150), (120, 120), (3, 100)]
)  # the most, what one pass holds, the fewest
def test_images_of_statistics_of_a_loader(monkeypatch, held, images):
    monkeypatch.setattr("frameworks.core.problem.STATISTICS_IMAGES", (100, 150))
    monkeypatch.setattr("frameworks.core.problem.images_at_once", lambda *_: held)
    seen = []
    monkeypatch.setattr(
        "frameworks.core.problem.reestimate_batchnorm", lambda model, x: seen.append(x)
    )
    problem = toy.make_problem(needs=("calibration", "valid"))
    batches = own_images()
    problem.fine_tune(problem.space.lowest(), loader=batches)
    assert torch.equal(seen[0], torch.cat([x for x, _ in batches])[:images])


def test_the_granted_training_images_give_the_statistics_beside_a_loader(problem):
    tuned = problem.fine_tune(problem.space.reference(3, 3), loader=own_images())
    inputs = []
    tuned.model.bn.register_forward_hook(lambda _, x, out: inputs.append(x[0]))
    with torch.no_grad():
        tuned(problem.train.images())
    torch.testing.assert_close(tuned.model.bn.running_mean, inputs[0].mean((0, 2, 3)))


def test_wrong_use_of_a_training_is_found_before_any_work(problem):
    policy = problem.space.lowest()
    with pytest.raises(ValueError, match="loss and teacher: give one"):
        problem.fine_tune(policy, loss=noisy, teacher="float")
    with pytest.raises(ValueError, match="teacher = 'best': give 'float' or a torch module"):
        problem.fine_tune(policy, teacher="best")
    assert problem.meter.images_forward == 0


def test_training_by_hooks_computes_where_the_problem_is():
    """The teacher, a loader and noise of the CPU meet a network on a GPU."""
    problem = toy.make_problem(bits=(2, 4), scheme="minmax", needs=("calibration", "valid"))
    with some_gpu() as gpu:
        placed = problem.to(gpu)
        tuned = placed.fine_tune(
            placed.space.lowest(),
            teacher=problem.network,
            transform=noisy,
            loader=own_images(count=2),
        )
        assert {p.device for p in tuned.parameters()} == {gpu}
        assert {p.device.type for p in problem.network.parameters()} == {"cpu"}
        assert placed.meter.images_forward > 4 * 32


def test_fine_tuning_repeats_and_axes_differ(problem):
    policy = problem.space.reference(4, 4)
    one, two = problem.fine_tune(policy), toy.make_problem().fine_tune(policy)
    assert equal(state(one), state(two))
    assert not equal(state(one), state(problem.fine_tune(policy, axis="other")))
    assert not equal(state(one), state(toy.make_problem(seed=1).fine_tune(policy)))


def test_fine_tuning_from_other_weights(problem):
    """Ranges and statistics are those of the weights that it starts from."""
    weights = {name: x.clone() for name, x in problem.network.state_dict().items()}
    weights["bn.weight"] *= 10  # the inputs of all that follows are ten times larger
    weights["bn.bias"] *= 10
    policy, still = problem.space.reference(8, 8), Recipe(epochs=0)
    plain = problem.fine_tune(policy, still, weights=problem.network.state_dict())
    other = problem.fine_tune(policy, still, weights=weights)
    assert torch.equal(other.model.bn.weight, 10 * plain.model.bn.weight)
    ratio = [float(q.qlayer("blocks.0.conv1").act_quantizer.step.detach()) for q in (other, plain)]
    assert ratio[0] / ratio[1] == pytest.approx(10, rel=1e-4)
    assert torch.equal(problem.network.bn.weight * 10, weights["bn.weight"])


def test_statistics_are_trusted_in_the_pretrained_network_alone(problem):
    """Those of other weights are what a search left, to ranges and to what is corrected alike."""
    policy, still = problem.space.reference(4, 4), Recipe(epochs=0)
    weights = problem.network.state_dict()
    left = {n: torch.zeros_like(x) if n.endswith("running_var") else x for n, x in weights.items()}
    assert sum(n.endswith("running_var") for n in weights) > 1
    settled = problem.float_model()
    reestimate_batchnorm(settled, problem.images)
    by_images = replace(problem, network=settled, bn="reestimate").fine_tune(policy, still)
    for each in (weights, left):
        assert equal(state(problem.fine_tune(policy, still, weights=each)), state(by_images))
    assert not equal(state(problem.fine_tune(policy, still)), state(by_images))
    kept = problem.fine_tune(policy, still, weights=weights, settled=True)
    assert not equal(state(kept), state(by_images))  # ranges by the statistics that came along
    stored = problem.at(bn="stored").fine_tune(policy, still, weights=left)
    assert float(stored.model.bn.running_var.abs().max()) == 0


def test_fine_tuning_starts_from_what_is_prepared(problem):
    policy, seen = problem.space.lowest(), []

    def prepare(qmodel):
        seen.append(qmodel.policy)
        for q in qmodel.range_parameters():
            q.data.fill_(0.5)

    tuned = problem.fine_tune(policy, Recipe(epochs=0), prepare=prepare)
    assert seen == [policy]
    assert all(bool((q == 0.5).all()) for q in tuned.range_parameters())


def test_networks_are_fresh_metered_copies(problem):
    before = state(problem.network)
    one, two = problem.float_model(), problem.float_model()
    assert one is not two
    assert one is not problem.network
    with torch.no_grad():
        for net in (one, problem.quantized().model):
            for p in net.parameters():
                p.zero_()
    assert equal(state(problem.network), before)
    assert equal(state(two), before)
    spent = problem.meter.images_forward
    two(problem.images)
    problem.quantized(problem.space.lowest())(problem.images)
    assert problem.meter.images_forward == spent + 2 * 64


def test_calibration_happens_once(problem):
    assert problem.observe() is problem.observe()
    problem.quantized()
    problem.quantized()
    assert problem.meter.images_forward == 64
    other = problem.observe(problem.images[:8])
    assert problem.meter.images_forward == 72
    assert other.samples["fc"].numel() == 8 * 16
    assert problem.quantized(images=problem.images[:8]).calibration.samples["fc"].numel() == 8 * 16


def test_calibration_is_the_same_for_every_search(problem):
    one, two = problem.observe().samples, toy.make_problem("size", 5).observe().samples
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("bits", [0, 1, 4, 32])
def test_quantizers_are_fresh_and_calibrated(problem, bits):
    name = "blocks.0.conv1"
    weight = problem.network.get_submodule(name).weight.detach()
    sample = problem.observe().samples[name]
    for kind, x, expected in (
        ("weight", weight, problem.scheme.weight(weight, bits)),
        ("act", sample, problem.scheme.activation(sample, bits)),
    ):
        one, two = (problem.quantizer(name, kind, bits) for _ in range(2))
        assert torch.equal(one(x), expected(x))
        assert one is not two
        with torch.no_grad():
            for p in one.parameters():
                p.mul_(2)
        assert torch.equal(two(x), expected(x))
        assert torch.equal(problem.quantizer(name, kind, bits)(x), expected(x))


def test_costs_and_budget(problem):
    policy = problem.space.reference(3, 3)
    direct = sum(x.macs * policy[x.name].weight * policy[x.name].act for x in problem.layers)
    assert problem.cost(policy)["bops"] == direct == problem.budget.limit
    assert problem.within(policy)
    assert not problem.within(problem.space.reference(3, 4))
    assert problem.layers is problem.space.layers


@pytest.mark.parametrize("metric", [None, "size"])
@pytest.mark.parametrize("paired", [False, True])
def test_layer_costs_add_up_to_the_cost_of_any_policy(metric, paired):
    problem = toy.make_problem(paired=paired)
    table, rng = problem.layer_costs(metric), problem.rng()
    assert list(table) == list(problem.space.names)
    assert list(table["stem"]) == [(8, 8)]
    assert len(table["blocks.0.conv1"]) == (6 if paired else 36)
    for _ in range(10):
        policy = problem.space.sample(rng)
        total = sum(table[name][bits.weight, bits.act] for name, bits in policy.items())
        assert total == pytest.approx(problem.cost(policy)[metric or "bops"], rel=1e-12)


def test_layer_costs_leave_out_what_the_hardware_cannot_do(problem):
    class Even(type(problem.target)):
        def supports(self, layer, weight, act):
            return weight >= act and weight % 2 == 0

    table = problem.at(target=Even()).layer_costs()
    assert list(table["fc"]) == [(8, 8)]
    expected = [(w, a) for w in (2, 4, 6, 8) for a in (2, 3, 4, 5, 6, 8) if a <= w]
    assert list(table["blocks.0.conv1"]) == expected


def test_layer_costs_need_a_sum():
    with pytest.raises(ValueError, match="the cost of peak is not a sum over layers"):
        toy.make_problem(toy.Peak()).layer_costs()


def test_data_that_the_card_does_not_name_is_forbidden():
    problem = toy.make_problem(needs=())
    for name, need in (("train", "train"), ("valid", "valid"), ("images", "calibration")):
        with pytest.raises(DataForbidden, match=f"may not read '{need}'"):
            getattr(problem, name)
    for use in (
        problem.observe,
        problem.quantized,
        problem.float_score,
        lambda: problem.evaluate(problem.space.lowest()),
        lambda: problem.fine_tune(problem.space.lowest()),
    ):
        with pytest.raises(DataForbidden):
            use()
    assert len(toy.make_problem(needs=("valid",)).valid) == 128


def test_the_test_split_is_no_part_of_a_problem():
    assert [f.name for f in fields(Data)] == ["train", "valid", "calibration"]
    assert not any("test" in name for name in dir(Problem))


def test_float_score(problem):
    score = problem.float_score()
    with torch.no_grad():
        logits = problem.network(problem.valid.x)
    right = int((logits.argmax(1) == problem.valid.y).sum())
    assert score.accuracy == 100 * right / 128
    assert problem.float_score() is score
    assert problem.meter.images_forward == 128
    assert problem.meter.policies == 0


def test_checkpoints_note_changes_and_what_was_spent(problem):
    low, high = problem.space.lowest(), problem.space.highest()
    problem.checkpoint(low, 0.5)
    problem.evaluate(low)
    problem.checkpoint(low)
    problem.checkpoint(high)
    problem.checkpoint(low)
    assert [c.policy for c in problem.checkpoints] == [low, high, low]
    assert [c.spent.policies for c in problem.checkpoints] == [0, 1, 1]
    assert [c.objective for c in problem.checkpoints] == [0.5, None, None]
    assert problem.checkpoints[1].spent.images_forward == 320


def test_at_gives_a_fresh_meter_and_history_and_keeps_the_rest(problem):
    problem.evaluate(problem.space.lowest())
    problem.checkpoint(problem.space.lowest())
    other = problem.at(seed=3)
    assert (other.seed, problem.seed) == (3, 0)
    assert other.network is problem.network
    assert other.space is problem.space
    assert other.checkpoints == []
    assert (other.meter.policies, other.meter.images_forward) == (0, 0)
    assert len(problem.checkpoints) == problem.meter.policies == 1
    other.evaluate(problem.space.lowest())
    assert other.meter.images_forward == 320
    assert problem.meter.images_forward == 320


def test_progress_is_silent_by_default_and_can_be_heard(problem):
    assert problem.progress(1, 2, "text") is None
    heard = []
    problem.at(progress=lambda *args: heard.append(args)).progress(1, 2, "text")
    assert heard == [(1, 2, "text")]


def test_randomness_comes_from_seed_and_axis():
    one, two, other = toy.make_problem(seed=1), toy.make_problem(seed=1), toy.make_problem(seed=2)
    assert one.rng("a").random() == two.rng("a").random()
    assert one.rng("a").random() == one.rng("a").random()
    assert len({one.rng("a").random(), one.rng("b").random(), other.rng("a").random()}) == 3
    assert one.generator("a").initial_seed() == derive(1, "a") == one.derive("a")
    assert one.generator().initial_seed() == derive(1, "search")


def test_float_bits_cost_nothing_in_accuracy():
    problem = toy.make_problem(kind=toy.ToyViT)
    float_net = problem.quantized(Policy.uniform(problem.layers, FLOAT, FLOAT))
    assert problem.score_model(float_net) == problem.float_score()


def test_the_cheapest_policy_need_not_have_the_fewest_bits():
    problem = toy.make_problem(toy.Valley(), budget=BudgetSpec(like=4))
    assert problem.cheapest() == problem.space.reference(4, 4)
    assert problem.within(problem.cheapest())
    assert not problem.within(problem.space.lowest())
    assert toy.make_problem("bops").cheapest() == problem.space.lowest()
    peak = toy.make_problem(toy.Peak())
    # The cost of the most expensive layer is the network's: all others take what costs no more.
    assert peak.cost(peak.cheapest()) == peak.cost(peak.space.lowest())
    assert peak.cheapest() != peak.space.lowest()
    for i, choice in enumerate(peak.space.choices):
        values = list(peak.space.encode(peak.cheapest()))
        for bits in (b for b in choice.bits if b > values[i]):
            more = peak.space.decode([*values[:i], bits, *values[i + 1 :]])
            assert peak.cost(more)["peak"] > peak.cost(peak.cheapest())["peak"]


def test_whether_more_bits_cost_more_depends_on_the_metric():
    by = {
        metric: toy.make_problem(toy.Valley(), budget=BudgetSpec(like=4, metric=metric))
        for metric in ("time", "size")
    }
    assert not by["time"].monotone
    assert by["size"].monotone
    assert toy.make_problem(toy.Peak()).monotone
    above = toy.make_problem(toy.Valley(), budget=BudgetSpec(like=4), bits=(4, 6, 8))
    assert above.monotone
