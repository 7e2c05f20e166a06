"""The pass on loops, on whole models and on random graphs: what moves, and that no value changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from transformers import CLIPVisionConfig, CLIPVisionModel

from edgeprune.pruners._greedy import Pick, cosine, greedy
from edgeprune.pruners._select import lower_take, take, top_in_order
from tests.covering import always
from tests.export.hoisting import (
    ALL,
    ATTENTION,
    BIAS,
    FEW,
    LINEAR,
    ROWS,
    TABLE,
    TAKE,
    WEIGHT,
    C,
    H,
    Hoisted,
    K,
    N,
    ProgramOf,
    Shapes,
    ShapesOf,
    X,
    random_tensor,
)

# Loops


def far_rows(x: Tensor, offset: float = 0.0, write: bool = False) -> Tensor:
    """K rows far from each other, chosen greedily in one scan: [B, N, C] -> [B, K]."""
    distance = 1 - cosine(x)
    nearest = distance.sum(-1)

    def update(state: tuple[Tensor, ...], pick: Pick) -> tuple[Tensor, ...]:
        row = pick.row + offset
        return (torch.minimum(state[0], row.clone().mul_(2) if write else row),)

    return greedy(distance, nearest, (nearest,), lambda state: state[0], update, K).indices


SCAN = torch.ops.higher_order.scan


def loops(program: ExportedProgram) -> list[str]:
    """The code of every loop's body."""
    bodies = [node.args[0].target for node in program.graph.nodes if node.target is SCAN]
    return [program.graph_module.get_submodule(body).graph.python_code("self").src for body in bodies]


def test_a_selection_moves_up_in_front_of_the_loop_that_chose_it(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor) -> Tensor:
        return take(F.linear(F.gelu(F.linear(x, WEIGHT)), WEIGHT), far_rows(x))

    program = hoisted(function, X, lower=True)
    assert shapes(program, LINEAR) == [FEW, FEW]
    assert len(loops(program)) == 1


def test_what_the_loop_reads_keeps_all_its_rows_and_what_stands_behind_does_not(shapes_of: ShapesOf) -> None:
    def function(x: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        return take(F.linear(y, WEIGHT), far_rows(y))

    assert shapes_of(LINEAR, function, X) == [ALL, FEW]


@pytest.mark.slow
def test_nothing_moves_into_a_loop(program_of: ProgramOf, hoisted: Hoisted) -> None:
    def function(x: Tensor) -> Tensor:
        return take(F.linear(x, WEIGHT), far_rows(x))

    before, after = program_of(function, X), hoisted(function, X)
    assert loops(before) == loops(after)


@pytest.mark.slow
def test_selections_move_past_a_loop_that_has_nothing_to_do_with_them(shapes_of: ShapesOf) -> None:
    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, WEIGHT)
        others = far_rows(x)
        return take(y.relu(), rows), others

    assert shapes_of(LINEAR, function, X, ROWS) == [FEW]


@pytest.mark.slow
def test_rows_that_two_loops_chose_move_through_each_other(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor) -> Tensor:
        y = take(F.linear(x, WEIGHT), top_in_order(far_rows(x) * 1.0, K))
        return take(F.linear(y, WEIGHT), far_rows(y))

    program = hoisted(function, X, lower=True)
    assert shapes(program, LINEAR) == [FEW, FEW]
    assert len(loops(program)) == 2


@pytest.mark.slow
def test_nothing_crosses_a_loop_that_writes(shapes_of: ShapesOf) -> None:
    def before(x: Tensor, rows: Tensor) -> Tensor:
        y = F.linear(x, WEIGHT)
        rows = rows + far_rows(x, write=True) * 0
        return take(F.linear(y, WEIGHT), rows)

    def behind(x: Tensor, rows: Tensor) -> Tensor:
        rows = rows + far_rows(x, write=True) * 0
        return take(F.linear(F.linear(x, WEIGHT), WEIGHT), rows)

    assert shapes_of(LINEAR, before, X, ROWS) == [ALL, FEW]
    assert shapes_of(LINEAR, behind, X, ROWS) == [FEW, FEW]


@pytest.mark.slow
def test_a_loop_that_nobody_reads_is_dropped(hoisted: Hoisted, shapes: Shapes) -> None:
    def function(x: Tensor, rows: Tensor) -> Tensor:
        far_rows(x)
        return take(F.linear(x, WEIGHT), rows)

    program = hoisted(function, X, ROWS)
    assert loops(program) == []
    assert shapes(program, LINEAR) == [FEW]


# Whole models


class Layer(nn.Module):
    def __init__(self, pre_norm: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(C, C) for _ in range(4))
        self.norms = nn.ModuleList([nn.LayerNorm(C), nn.LayerNorm(C)])
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
        self.pre_norm = pre_norm

    def attend(self, x: Tensor) -> Any:
        heads = [part(x).unflatten(-1, (H, C // H)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Any:
        first, second = self.norms
        if self.pre_norm:
            x = x + self.attend(first(x))
            return x + self.mlp(second(x))
        x = first(x + self.attend(x))
        return second(x + self.mlp(x))


class Projector(nn.Module):
    """A residual MLP behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(C), nn.Linear(C, 12)
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Any:
        x = self.up(self.norm(x))
        return x + self.second(F.gelu(self.first(x)))


class Transformer(nn.Module):
    """Ranks the patches by their distance to the [CLS] row in front of the last layer, and keeps K behind it. Or keeps
    K far ones, which a loop chooses.
    """

    def __init__(self, pre_norm: bool, looped: bool = False) -> None:
        super().__init__()
        self.looped = looped
        self.position = nn.Parameter(random_tensor(1, N, C))
        self.layers = nn.ModuleList([Layer(pre_norm) for _ in range(2)])
        self.projector = Projector()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers[0](x + self.position)
        rows = far_rows(x[:, 1:]) if self.looped else top_in_order((x[:, :1] * x[:, 1:]).sum(-1), K)
        return take(self.projector(self.layers[1](x)[:, 1:]), rows), rows


@pytest.mark.parametrize(
    ("pre_norm", "batch", "dynamic", "looped"),
    always(
        [
            (*one, looped)
            for one in [(True, 1, False), (True, 3, True), (False, 1, False), (False, 3, False)]
            for looped in (False, True)
        ],
        (False, 1, False, False),
    ),
)
def test_last_layer_and_projector_work_on_kept_rows(
    pre_norm: bool, batch: int, dynamic: bool, looped: bool, hoisted: Hoisted, shapes: Shapes
) -> None:
    torch.manual_seed(0)
    program = hoisted(Transformer(pre_norm, looped), random_tensor(batch, N, C), dynamic=dynamic, lower=True)
    assert len(loops(program)) == looped
    assert [shape[1] for shape in shapes(program, LINEAR)].count(N) == 6 + 2  # the first layer; keys and values
    assert [shape[1] for shape in shapes(program, LINEAR)].count(K) == 4 + 3
    assert [shape[-2] for shape in shapes(program, ATTENTION)] == [N, K]


class PrunedClip(nn.Module):
    """[CLS] row of the last layer's attention, recomputed in a side branch beside the fused attention."""

    def __init__(self) -> None:
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=C,
            intermediate_size=2 * C,
            num_attention_heads=H,
            num_hidden_layers=3,
            image_size=12,
            patch_size=4,
        )
        encoder = CLIPVisionModel(config)
        self.model: Any = getattr(encoder, "vision_model", encoder)
        self.projector = Projector()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.model.pre_layrnorm(self.model.embeddings(x))
        *layers, last = self.model.encoder.layers
        for layer in layers:
            hidden = layer(hidden, None)
        normed = last.layer_norm1(hidden)
        query = last.self_attn.q_proj(normed)[:, :1].unflatten(-1, (H, C // H)).transpose(1, 2)
        key = last.self_attn.k_proj(normed).unflatten(-1, (H, C // H)).transpose(1, 2)
        scores = (query @ key.transpose(-1, -2) * (C // H) ** -0.5).softmax(-1).mean(1)[:, 0, 1:]
        rows = top_in_order(scores, K)
        return take(self.projector(last(hidden, None)[:, 1:]), rows), rows, scores


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "dynamic"), always([(1, False), (3, False), (3, True)], (3, True)))
def test_last_layer_of_clip_works_on_kept_rows(batch: int, dynamic: bool, hoisted: Hoisted, shapes: Shapes) -> None:
    torch.manual_seed(0)
    program = hoisted(PrunedClip(), random_tensor(batch, 3, 12, 12), dynamic=dynamic, lower=True)
    assert [shape[-2] for shape in shapes(program, ATTENTION)] == [10, 10, K]
    mlps = [shape[1] for shape in shapes(program, LINEAR) if shape[-1] == 2 * C]
    assert mlps == [10, 10, K]


# Any graph


MASK = random_tensor(1, 1, N, N)


class RandomGraph:
    """Random operators on values [B, N, C], then some selections of some of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attend(self, *values: Tensor) -> Tensor:
        query, key, value = (v.view(v.shape[0], N, H, -1).transpose(1, 2) for v in values)
        out = F.scaled_dot_product_attention(query, key, value, MASK)
        return out.transpose(1, 2).reshape(-1, N, C)

    def grow(self, choose: random.Random, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        batch = x.shape[0]
        steps: list[Callable[[], Tensor]] = [
            lambda: F.linear(x, WEIGHT, BIAS),
            lambda: F.gelu(x) + y,
            lambda: x * x.sigmoid() - TABLE,
            lambda: F.layer_norm(x + y * TABLE[None], (C,), BIAS),
            lambda: F.rms_norm(x, (C,)) + x[:, :1],
            lambda: x.softmax(choose.choice([1, 2, -1])),
            lambda: F.scaled_dot_product_attention(x, y, z),
            lambda: F.scaled_dot_product_attention(x, y, z, is_causal=True),
            lambda: self.attend(x, y, z),
            lambda: (x @ y.transpose(1, 2)).softmax(-1) @ z,
            lambda: F.linear(torch.cat([x, y], -1), torch.cat([WEIGHT, WEIGHT.mT], 1)),
            lambda: torch.cat([x[:, choose.randrange(N) :], y[:, :N]], 1)[:, :N],
            lambda: torch.cat([y[:, :2], x[:, -4:]], 1),
            lambda: x - y.mean(choose.choice([[1], [-1], [1, 2]]), keepdim=True),
            lambda: x * y.sum(-1).unsqueeze(2) + z[:, choose.randrange(N)].unsqueeze(1),
            lambda: x.permute(0, 2, 1).contiguous().tanh().permute(0, -1, 1),
            lambda: x.unsqueeze(at := choose.randrange(4)).double().tanh().squeeze(at).float(),
            lambda: x.unsqueeze(choose.randrange(4)).cos().reshape(batch, N, C),
            lambda: x.reshape(batch * N, C).relu().view(batch, N, C),
            lambda: torch.where(x > y, x, z).masked_fill(y > 1, 0.5),
            lambda: torch.stack(x.chunk(2, -1), -1).flatten(2).clone(),
            lambda: torch.unflatten(x, -1, (H, -1)).flip(-1).flatten(-2),
        ]
        return choose.choice(steps)()

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        choose = random.Random(self.seed)
        values = [x]
        for _ in range(choose.randint(3, 9)):
            recent = values[-choose.randint(1, 3) :]
            values.append(self.grow(choose, values[-1], choose.choice(recent), choose.choice(recent)))
        results: list[Tensor] = []
        for _ in range(choose.randint(1, 3)):
            value, start = choose.choice(values[-3:]), choose.choice([0, 0, 1, -5])
            scores = x.mean(-1) + choose.choice([x, *values[-2:]])[..., 0].tanh() / 1000  # x alone decides: no ties
            rows = top_in_order(scores[:, start:], K)
            kept = take(value[:, start:], rows)
            others = [kept, take(value[:, start:], rows) * 2, take(value, rows, 2)]
            others += [value, value[:, 0], value[:, :1], value.mean(-1)]
            results += [F.linear(kept, WEIGHT) + take(values[-1][:, start:], rows), choose.choice(others)]
        return tuple(results)


@pytest.mark.parametrize("seed", always(range(12), 2, 4))
def test_random_graph_computes_the_same(seed: int, hoisted: Hoisted) -> None:
    batch = (1, 3, 3)[seed % 3]
    hoisted(RandomGraph(seed), random_tensor(batch, N, C), dynamic=seed % 3 == 2, lower=seed % 4 == 0)


@pytest.mark.slow
def test_hoisted_program_runs_on_onnx_runtime(hoisted: Hoisted) -> None:
    torch.manual_seed(0)
    x = random_tensor(3, N, C)
    module = Transformer(pre_norm=True)
    program = hoisted(module, x).run_decompositions({TAKE: lower_take})
    exported_program = torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False)
    assert exported_program is not None
    session = onnxruntime.InferenceSession(exported_program.model_proto.SerializeToString())
    tokens, rows = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected_tokens, expected_rows = module(x)
    assert (torch.from_numpy(rows) == expected_rows).all()
    torch.testing.assert_close(torch.from_numpy(tokens), expected_tokens, rtol=1e-4, atol=1e-5)
