"""The checks of the exercises: each refuses a list of wrong answers, and what a reader has not begun.

A notebook joins by a dict of its own in WRONG: for each `check_...` of it the wrong answers that somebody might give. An answer
is Python source, evaluated among the notebook's names, so that it can say what a reader would write. That the solutions are
accepted is what the notebooks' own last cells assert.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent

IDENTITY = "lambda *given: affine()"

WRONG_01 = {
    "check_area": [
        "lambda theta: 0.25",
        "lambda theta: (theta[0, 0, 0] ** 2).item()",
        "lambda theta: (theta[0, 0, 0] * theta[0, 1, 1]).abs().item()",  # without b and c
        "lambda theta: torch.linalg.det(theta[0, :, :2]).item()",  # negative for a mirror
        "lambda theta: 1 / torch.linalg.det(theta[0, :, :2]).abs().item()",  # how much larger the picture looks
        "lambda theta: (decompose(theta).scale[0] ** 2).item()",
        "lambda theta: theta[0, :, 0].norm().item() * theta[0, :, 1].norm().item()",  # not a rectangle
        "lambda theta: torch.linalg.det(as_matrix(theta)[0] + 0.01).abs().item()",
    ],
    "check_crop": [
        IDENTITY,
        "lambda box, size: affine(shift=(0.0, 1.0))",
        "lambda box, size: affine(scale=0.25, shift=(-0.75, 0.25))",
        "lambda box, size: affine(scale=0.5, shift=(-0.5, 0.5))",
        "lambda box, size: crop_solution(box, size[::-1])",  # height and width swapped
        "lambda box, size: crop_solution((box[1], box[0], box[3], box[2]), size)",  # x and y swapped
        "lambda box, size: crop_solution((box[0], box[1], box[2] + 1, box[3] + 1), size)",
        "lambda box, size: crop_solution([edge + 0.5 for edge in box], size)",  # centres and not edges
        "lambda box, size: invert(crop_solution(box, size))",
        "lambda box, size: affine(scale=((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0]))",
    ],
    "check_undo": [
        IDENTITY,
        "lambda a, b: compose(first=a, then=b)",
        "lambda a, b: invert(compose(first=b, then=a))",
        "lambda a, b: compose(first=invert(a), then=invert(b))",
        "lambda a, b: invert(a)",
        "lambda a, b: invert(b)",
        "lambda a, b: affine(-40, 1.25)",
    ],
    "check_which": [
        IDENTITY,
        "lambda card, picture: affine(angle=-40, scale=0.8)",
        "lambda card, picture: affine(angle=155, scale=1.25)",
        "lambda card, picture: invert(which_theta_solution(card, picture))",
        "lambda card, picture: affine(-decompose(which_theta_solution(card, picture)).angle.item())",
        "lambda card, picture: affine(decompose(which_theta_solution(card, picture)).angle.item())",
        "lambda card, picture: affine(float('nan'))",
    ],
}

WRONG_02 = {
    "check_side": [
        "lambda n, k, stride, padding: n",
        "lambda n, k, stride, padding: n - k + 1",
        "lambda n, k, stride, padding: (n - k + 1) // stride",
        "lambda n, k, stride, padding: (n - k) // stride + 1",
        "lambda n, k, stride, padding: (n + padding - k) // stride + 1",
        "lambda n, k, stride, padding: (n + 2 * padding - k) / stride + 1",
        "lambda n, k, stride, padding: -(-(n + 2 * padding - k) // stride) + 1",  # rounded up
        "lambda n, k, stride, padding: (n + 2 * padding - k + 1) // stride",
    ],
    "check_fence": [
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]).expand(len(raw), 6)",
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]) + raw",
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]) + raw.clamp(max=1)",
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]) + raw.clamp(min=-1)",
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]) + 1 - torch.exp(-raw)",
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]) - torch.tanh(raw)",
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]) + 2 * torch.tanh(raw / 2)",
        "lambda raw: torch.tensor([1.0, 0, 0, 0, 1, 0]) + torch.sin(raw)",  # comes back
        "lambda raw: torch.tanh(torch.tensor([1.0, 0, 0, 0, 1, 0]) + raw)",
        "lambda raw: torch.tensor([0.0, 1, 0, 1, 0, 0]) + torch.tanh(raw)",
        "lambda raw: (torch.tensor([1.0, 0, 0, 0, 1, 0]) + torch.tanh(raw)).mT",
    ],
    "check_reader": [
        "lambda: light_localization(1)",  # too many parameters
        "lambda: nn.Flatten()",
        "lambda: torch.zeros(2, 32)",
        "lambda: nn.Sequential(nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 32))",
        "lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 32), nn.ReLU())",  # how bright, not how turned
    ],
}

WRONG_03 = {
    "check_normalised": [
        "lambda p, n, align_corners=False: 0.0",
        "lambda p, n, align_corners=False: (2 * p + 1) / n - 1",  # one convention for both
        "lambda p, n, align_corners=False: 2 * p / (n - 1) - 1",
        "lambda p, n, align_corners=False: to_normalised_solution(p, n, not align_corners)",
        "lambda p, n, align_corners=False: 2 * p / n - 1",
        "lambda p, n, align_corners=False: -to_normalised_solution(p, n, align_corners)",
        "lambda p, n, align_corners=False: to_normalised_solution(p, 28, align_corners)",
        "lambda p, n, align_corners=False: to_pixels(p, n, align_corners)",
    ],
    "check_neighbours": [
        "lambda p, n: (p, p, 1, 0)",
        "lambda p, n: (0, n - 1, 1 - p / (n - 1), p / (n - 1))",
        "lambda p, n: (p.floor(), p.floor() + 1, 1 - (p - p.floor()), p - p.floor())",  # leaves the row
        "lambda p, n: (p.floor(), p.ceil(), p.ceil() - p, p - p.floor())",  # no weight on a pixel
        "lambda p, n: (p.floor(), (p.floor() + 1).clamp(max=n - 1), p - p.floor(), 1 - (p - p.floor()))",  # weights swapped
        "lambda p, n: (p.floor(), (p.floor() + 1).clamp(max=7), 1 - (p - p.floor()), p - p.floor())",  # n is not always 8
        "lambda p, n: (p.round(), p.round(), 1, 0)",
        "lambda p, n: (p.floor(), (p.floor() + 1).clamp(max=n - 1), 0.5, 0.5)",
        "lambda p, n: (lambda l, r: (l, r, r - p, p - l))(p.floor(), (p.floor() + 1).clamp(max=n - 1))",  # clip, then weigh
    ],
    "check_step": [
        "lambda theta, source, target: 3.0",
        "lambda theta, source, target: theta[0].norm() * source[1] / target[1]",  # the row
        "lambda theta, source, target: theta[:, 0].norm() * source[1] / target[1]",  # only across
        "lambda theta, source, target: theta[:, 1].norm() * source[0] / target[0]",  # only down
        "lambda theta, source, target: max(theta[:, 0].norm() * source[1] / target[1], theta[:, 1].norm() * source[0] / target[0])",
        "lambda theta, source, target: torch.linalg.det(theta[:, :2]).abs().sqrt() * source[0] / target[0]",
        "lambda theta, source, target: step_size_solution(theta, source[::-1], target[::-1])",
        "lambda theta, source, target: step_size_solution(theta, target, source)",
        "lambda theta, source, target: step_size_solution(theta.flip(0), source, target)",
        "lambda theta, source, target: 2 * step_size_solution(theta, source, target)",
    ],
    "check_zoom": [
        "STN",  # six numbers
        "lambda net, features: nn.Identity()",
        "lambda net, features: WrongZoom(net, features, lambda s, x, y: (s, s * 0, y, s * 0, s, x))",  # (y, x)
        "lambda net, features: WrongZoom(net, features, lambda s, x, y: (s, s * 0, -x, s * 0, s, -y))",
        "lambda net, features: WrongZoom(net, features, lambda s, x, y: (1 / s, s * 0, x, s * 0, 1 / s, y))",
        "lambda net, features: WrongZoom(net, features, lambda s, x, y: (s, s * 0, s * x, s * 0, s, s * y))",
        "lambda net, features: WrongZoom(net, features, lambda s, x, y: (s, s * 0, x, s * 0, s, x))",
        "lambda net, features: WrongZoom(net, features, lambda s, x, y: (s.detach(), s.detach() * 0, x.detach(), s * 0, s, y))",
    ],
}

WRONG_03B = {
    "check_angle": [
        "lambda gradient, a: torch.tensor(0.0)",
        "lambda gradient, a: gradient.sum()",
        "lambda gradient, a: -angle_gradient_solution(gradient, a)",
        "lambda gradient, a: angle_gradient_solution(gradient, -a)",
        "lambda gradient, a: angle_gradient_solution(gradient[:, [1, 0, 2]], a)",
        "lambda gradient, a: angle_gradient_solution(gradient, a.deg2rad())",
        "lambda gradient, a: (gradient[0, 0] + gradient[1, 1]) * -a.sin()",  # only the diagonal
        "lambda gradient, a: angle_gradient_solution(gradient, torch.tensor(0.3))",
        "lambda gradient, a: 3.0",
    ],
    "check_rates": [
        "lambda net, rate: torch.optim.Adam(net.parameters(), rate)",
        "lambda net, rate: torch.optim.SGD(net.parameters(), rate)",
        "lambda net, rate: torch.optim.SGD(net.parameters(), rate / 10)",
        "lambda net, rate: torch.optim.SGD(net[1:].parameters(), rate)",  # the transformer is forgotten
        "lambda net, rate: two_rates_solution(net, 0.1)",
        "lambda net, rate: two_rates_solution(net[::-1], rate)",
        "lambda net, rate: two_rates_solution(net[:2], rate)",
        "lambda net, rate: two_rates_solution(net, rate / 10)",
    ],
    "check_pyramid": [
        "slide",
        "lambda picture, goal: (0.0, 0.0)",
        "lambda picture, goal: (-0.45, 0.3)",
        "lambda picture, goal: coarse_to_fine_solution(picture, goal).flip(0)",
        "lambda picture, goal: -coarse_to_fine_solution(picture, goal)",
        "lambda picture, goal: coarse_to_fine_solution(goal, picture)",
        "lambda picture, goal: slide(blur(picture, 1.0), blur(goal, 1.0))",  # not blurred enough
        "lambda picture, goal: torch.tensor([float('nan')] * 2)",
    ],
}

SHRUNK = "nn.Upsample(size=(32, 32), mode='bilinear'), net)"
WRONG_05 = {
    "check_twin": [
        "lambda: 'without ST'",
        "lambda: nn.Identity()",
        "lambda: STUDY.arms['with ST'].build(seed=0)",
        "lambda: STUDY.arms['with ST'].build(seed=0).transformer",
        "lambda: STUDY.arms['without ST'].build(seed=1)",
    ],
    "check_free": [
        "lambda: brief",
        "lambda: replace(brief, localization=1.0)",
        "lambda: replace(brief, localization_decay=0.0)",
        "lambda: replace(brief, localization=1.0, weight_decay=0.0)",
        "lambda: replace(brief, localization=0.0, localization_decay=1.0)",
    ],
    "check_padded": [
        "lambda net, pixels: net",
        "lambda net, pixels: padded_solution(net, pixels + 1)",
        f"lambda net, pixels: nn.Sequential(nn.ZeroPad2d(pixels), {SHRUNK}",
        f"lambda net, pixels: nn.Sequential(nn.ReflectionPad2d(pixels), {SHRUNK}",
        f"lambda net, pixels: nn.Sequential(nn.ReplicationPad2d(2 * pixels), {SHRUNK}",
    ],
}

WRONG_06 = {
    "check_guess": [f"lambda: {word!r}" for word in ("helps", "hurts", "settled", "", "Not settled", 0)],
    "check_seeds": [
        "lambda sd, half: 3",
        "lambda sd, half: 4",
        "lambda sd, half: seeds_needed_solution(half, sd)",
        "lambda sd, half: seeds_needed_solution(sd, half) - 1",
        "lambda sd, half: round((1.96 * sd / half) ** 2)",  # as if many seeds were there
    ],
    "check_eye": [
        "lambda: light_localization()",
        "lambda: SpatialTransformer(light_localization())",
        "lambda: SpatialTransformer(light_localization(), family='similarity')",
        "lambda: SpatialTransformer(light_localization(), family='attention')",
        "lambda: SpatialTransformer(light_localization(), family='tps')",
    ],
}

WRONG_06B = {
    "check_similarity": [
        "by_place",
        "by_place_and_size",
        "lambda pose: pose.flip(0)",
        "lambda pose: best_similarity_solution(pose) * torch.tensor([[1.0, -1, 1], [-1, 1, 1]])",  # turned the other way
        "lambda pose: best_similarity_solution(pose)[:10]",
    ],
    "check_stray": [
        "lambda seen: 0.0",
        "lambda seen: seen.std().item()",
        "lambda seen: (seen - seen.mean(dim=0)).norm(dim=-1).mean()",  # zooming out pays
        "lambda seen: stray_solution(seen) ** 2",
        "lambda seen: stray_solution(seen.flip(1)[:, :2])",
    ],
    "check_guess": WRONG_06["check_guess"],
}

WRONG_06C = {
    "check_arrow": [
        "lambda belief: (belief @ TURNS, belief.max(1).values)",  # the mean of degrees
        "lambda belief: arrow_solution(belief)[::-1]",
        "lambda belief: (-arrow_solution(belief)[0], arrow_solution(belief)[1])",
        "lambda belief: (arrow_solution(belief)[0].deg2rad(), arrow_solution(belief)[1])",
        "lambda belief: (TURNS[belief.argmax(1)], belief.max(1).values)",
        "lambda belief: (arrow_solution(belief)[0], arrow_solution(belief)[1] ** 2)",
    ],
    "check_loss": [
        "lambda said, angle: (said - angle[:, None]).square().mean()",
        "lambda said, angle: arrow_loss_solution(said.flip(1), angle)",
        "lambda said, angle: arrow_loss_solution(said, -angle)",
        "lambda said, angle: arrow_loss_solution(said, angle) / 2",
        "lambda said, angle: (said - torch.stack([angle.cos(), angle.sin()], 1)).square().sum(1).mean()",  # degrees as radians
    ],
}

WRONG = {
    "01": WRONG_01,
    "02": WRONG_02,
    "03": WRONG_03,
    "03b": WRONG_03B,
    "05": WRONG_05,
    "06": WRONG_06,
    "06b": WRONG_06B,
    "06c": WRONG_06C,
}

# What a wrong answer needs and no notebook has.
AIDS = {
    "03": """
class WrongZoom(nn.Module):
    def __init__(self, localization, features, six):
        super().__init__()
        self.localization, self.to_theta, self.six = localization, nn.Linear(features, 3), six
        nn.init.zeros_(self.to_theta.weight)
        self.to_theta.bias.data = torch.tensor([1.0, 0.0, 0.0])

    def forward(self, images):
        theta = torch.stack(self.six(*self.to_theta(self.localization(images)).unbind(1)), dim=1)
        return warp(images, theta.view(-1, 2, 3))
"""
}


def statements(number: str) -> Iterator[ast.stmt]:
    """The statements of a notebook's code cells, those of the set-up's search for the series left out."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            source = TransformerManager().transform_cell(cell.source)
            yield from ast.parse(source.split("sys.path[:0]")[-1].split("\n", 1)[1] if "sys.path[:0]" in source else source).body


def bound(statement: ast.stmt) -> set[str]:
    """The names that a definition, an import or an assignment, also inside a `with`, gives a meaning to."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if not isinstance(statement, ast.Assign | ast.With):
        return set()
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def needed(statement: ast.AST) -> set[str]:
    """The names that a statement takes from outside: of a function not its arguments, nor what it binds itself."""
    inside = list(ast.walk(statement))
    used = {node.id for node in inside if isinstance(node, ast.Name)}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        used -= {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return used - {node.arg for node in inside if isinstance(node, ast.arg)}


def names(number: str) -> dict:
    """The names of a notebook that its checks and solutions need, and no more: nothing else is drawn or trained."""
    found = list(statements(number))
    wanted = {name for one in found for name in bound(one) if re.match(r"check_|.*_solution$|.*Solution$", name)}
    wanted = wanted.union(*(needed(ast.parse(answer)) for check in WRONG[number].values() for answer in check))
    kept: set[int] = set()
    while True:
        more = {k for k, one in enumerate(found) if k not in kept and bound(one) & wanted}
        if not more:
            break
        kept |= more
        wanted = wanted.union(*(needed(found[k]) for k in more))
    scope: dict = {"__name__": "notebook"}
    for k in sorted(kept):
        exec(compile(ast.Module([found[k]], []), f"notebook {number}", "exec"), scope)
    exec(AIDS.get(number, ""), scope)
    return scope


@pytest.fixture(scope="module", params=WRONG)
def notebook(request) -> tuple[str, dict]:
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield request.param, names(request.param)
    torch.set_num_threads(threads)


def test_every_check_has_its_list_of_wrong_answers(notebook):
    number, scope = notebook
    assert set(WRONG[number]) == {name for name in scope if name.startswith("check_")}
    assert all(len(wrong) >= 5 for wrong in WRONG[number].values())


def test_a_check_refuses_wrong_answers_and_says_so(notebook):
    number, scope = notebook
    accepted = []
    for check, wrong in WRONG[number].items():
        for answer in ["lambda *given: None", *wrong]:
            said = scope[check](eval(answer, scope))
            if not said.startswith("Not yet: "):
                accepted.append(f"{check}: {answer} -> {said}")
    assert not accepted, "\n".join(accepted)
