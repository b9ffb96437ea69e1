"""Diagnose: what went wrong in a spatial transformer, named from its theta, its gradients and what it sees."""

from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stn_helpers.checks import NotFiniteError, finite
from stn_helpers.families import outline
from stn_helpers.sampler import sample
from stn_helpers.theta import cross
from stn_helpers.transformer import SpatialTransformer, ToTheta

# The limits come from digits turned by up to 60 degrees, trained well with every family and badly in every way below.
FLAT = 0.1  # contrast of what is seen over the picture's: a good warp keeps 0.95, a collapsed one 0.001
OUTSIDE = 0.3  # share of the view beyond the picture: a square window of full size has at most 0.17, however it is turned
FRAME = 0.02  # the same share where zero is no black: a frame half a pixel wide is 0.07 at 28 pixels, rounding 0.00001
NARROW = 0.25  # share of what is drawn that is read: a good warp reads 0.95, and one digit among clutter is 0.4
MIRRORED = 0.1  # share of the pictures: a good warp mirrors none, and a few odd ones are no pattern
LOST = 0.35  # length of theta without features over the identity's: trained from the identity 0.95, from nn.Linear's start 0.2
DEAD = 1e-3  # how far theta moves where the last layer moves by 1: bare 1, a tanh at its start 0.4, a saturated sigmoid 1e-9
SAME = 0.003  # distance of any theta from their mean; 1 is half the picture, so 0.04 pixels of 28. A good warp has 0.1 to 1
STILL = 1e-6  # any step of an optimizer moves theta by more, and rounding by less
SLOWER = "Start again, with a smaller learning rate for the localization network: a third of the classifier's, or a tenth."
BOUNDED = "Leave theta bare. If it must be bounded, add to the identity: identity + 0.5 * tanh(answer), with zero bias."
CURES = {
    "not finite": "Go back to the last good checkpoint, for weights that are NaN stay NaN, and lower the learning rate.",
    "dead start": "Keep theta in the graph: no detach, no torch.tensor of its numbers. " + BOUNDED,
    "identity out of reach": BOUNDED,
    "no identity in the bias": "Start the last layer with zero weights and the identity as bias; keep weight decay off biases.",
    "not moved yet": "Train it. If you have: are its parameters in the optimizer, and is none of them frozen?",
    "collapsed": SLOWER,
    "looks past the picture": SLOWER,
    "gray frame": "Let the warp see images in [0, 1], where zero is black, and normalise behind it. Or pad with the border.",
    "zoomed in": "Start at the identity, with a smaller rate. Where the object is small in its picture, nothing is wrong.",
    "mirrored": "Does x come before y in theta? Start at the identity, or take a family that cannot mirror: similarity, rotation.",
    "same for every picture": "Train for longer. If that changes nothing, its ReLUs are dead. " + SLOWER,
}


class Finding(NamedTuple):
    """One thing that went wrong: its name, what was measured, and what to do."""

    name: str
    measured: str
    cure: str

    def __str__(self) -> str:
        return f"{self.name}: {self.measured}\n  {self.cure}"


def diagnose(
    model: nn.Module, images: Tensor, labels: Tensor | None = None, transformer: SpatialTransformer | None = None
) -> list[Finding]:
    """What went wrong in the SpatialTransformer of a network, judged by the median picture; an empty list is healthy.

    images: (N, C, H, W) as the model takes them; 100 are plenty, 1 will do. labels: (N,), class numbers: with them, and logits
    from the model, the gradient of the loss is followed too. transformer: which one, where the model holds several and none
    of them is `model.transformer`. theta is taken to come from `to_theta`. The model stays as it was.
    It cannot tell an identity that is right from one that no step has reached, a bias that never was the identity from one
    that weight decay has eaten, or a window that is narrow on purpose from one that shrank. Nor whether a healthy one is of use.
    Raises ValueError for a model without a SpatialTransformer, or that never calls it. Taught in notebook 04b.
    """
    inside = [module for module in model.modules() if isinstance(module, SpatialTransformer)]
    chosen = transformer or getattr(model, "transformer", None)
    chosen = inside[0] if chosen not in inside and transformer is None and len(inside) == 1 else chosen
    if chosen not in inside:
        raise ValueError(f"model holds {len(inside)} SpatialTransformers; expected one, or transformer=, the one to diagnose")
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng([images.device] if images.is_cuda else []), torch.inference_mode(False):
            found = _examine(model.eval(), chosen, images.detach().clone(), None if labels is None else labels.clone())
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [Finding(name, measured, CURES[name]) for name, measured in found.items()]


def _examine(model: nn.Module, transformer: SpatialTransformer, images: Tensor, labels: Tensor | None) -> dict[str, str]:
    """{name: what was measured} of all that is wrong."""
    caught: list[Tensor] = []
    hook = transformer.register_forward_pre_hook(lambda module, given: caught.append(given[0].detach()))
    with hook, suppress(NotFiniteError), torch.no_grad():
        model(images)
    if not caught:
        raise ValueError("the SpatialTransformer is never called by the model: there is nothing to diagnose")
    params = transformer.params(inputs := caught[0]).detach()
    grid = transformer.grid(inputs, params, check=False).detach()
    good = finite(params) & finite(grid)
    # Here it must end: on a CPU, the backward pass of a sampler that is given NaN can take the whole process with it.
    if not good.all():
        bad, ill = (~good).sum(), (~finite(inputs)).sum()
        return {"not finite": f"{bad} of {len(grid)} thetas are not finite, and {ill} of the pictures are not."}
    found = _start(model, transformer, images, inputs, params, labels) | _view(transformer, inputs, params, grid)
    explained = ("dead start", "same for every picture") if "collapsed" in found else ()
    return {name: measured for name, measured in found.items() if name not in explained}


def _start(model, transformer: SpatialTransformer, images: Tensor, inputs: Tensor, params: Tensor, labels) -> dict[str, str]:
    """What is wrong with how theta is made: whether a gradient moves it, where it can go, and where it began."""
    # Where something was put around to_theta, a tanh or a low rank, the layer itself is inside.
    last = next((layer for layer in transformer.to_theta.modules() if isinstance(layer, ToTheta)), transformer.to_theta)
    # The nudge has the bias's gradient, also where that is frozen; and zero, not an error, where a graph is cut.
    nudge = params.new_zeros(transformer.family.count, requires_grad=True)
    with last.register_forward_hook(lambda layer, given, said: said + nudge):
        values = [transformer.params(inputs).mean(0).sum(), transformer(inputs).square().mean()]
        values += [] if labels is None else [nn.functional.cross_entropy(model(images), labels)]
    slope, view, *pull = [torch.autograd.grad(value + 0 * nudge.sum(), nudge)[0].abs().max().item() for value in values]
    loss = "".join(f" The gradient of the loss at its bias is {size:.1g}." for size in pull)
    if slope < DEAD or (view == 0 and inputs.std() > 0):
        return {"dead start": f"Where its last layer moves by 1, theta moves by {slope:.1g}, and the view by {view:.1g}.{loss}"}

    def theta(answer: float) -> Tensor:
        with last.register_forward_hook(lambda layer, given, said: torch.full_like(said, answer)):
            return transformer.params(inputs[:1])[0].detach()

    found, ends = {}, torch.stack([theta(answer) for answer in (-1e9, -1e8, -3.0, 3.0, 1e8, 1e9)])
    # Squashed is what is flat far out, and not yet there at 3.
    squashed = ((ends[0] == ends[1]) & (ends[1] != ends[2])) | ((ends[3] != ends[4]) & (ends[4] == ends[5]))
    low, high, identity = ends.amin(0), ends.amax(0), params.new_tensor(transformer.family.identity)
    for k in (squashed & ((identity <= low) | (identity >= high))).nonzero()[:1, 0].tolist():
        now = f"Number {k} of theta is {params[:, k].median():.2f} and stays between {low[k]:.2f} and {high[k]:.2f}"
        found["identity out of reach"] = f"{now}; the identity has {identity[k]:.2f}."
    with transformer.to_theta.register_forward_pre_hook(lambda layer, given: torch.zeros_like(given[0])):
        featureless, whole = transformer.params(inputs[:1])[0].detach().norm(), identity.norm()
    if featureless < LOST * whole:
        found["no identity in the bias"] = f"Without features, theta has {featureless / whole:.2f} of the identity's length."
    elif (params - identity).abs().max() < STILL:
        found["not moved yet"] = f"Theta is the identity for every picture.{loss}"
    # Where the weights are still zero it cannot differ, and one picture, or many that are alike, cannot tell.
    elif (
        (apart := (params - params.mean(0)).abs().max()) < SAME
        and any(weight.any() for weight in transformer.to_theta.parameters() if weight.ndim > 1)
        and (inputs != inputs[:1]).any()
    ):
        found["same for every picture"] = f"No number of theta is more than {apart:.4f} from its mean."
    return found


def _view(transformer: SpatialTransformer, inputs: Tensor, params: Tensor, grid: Tensor) -> dict[str, str]:
    """What is wrong with what the classifier gets to see."""
    contrast = (transformer(inputs).detach().flatten(1).std(1) / inputs.flatten(1).std(1)).nanmedian()
    if contrast < FLAT:
        return {"collapsed": f"What it sees has {contrast:.1%} of the contrast of the picture."}
    picture = torch.ones_like(inputs[:, :1], requires_grad=True)
    inside = sample(picture, grid, padding_mode="zeros", align_corners=transformer.align_corners)
    outside = 1 - inside.detach().flatten(1).mean(1)
    # A source pixel is read where the view has a gradient. What is drawn differs from the median; the rest does not count.
    read = torch.autograd.grad(inside.sum(), picture)[0] > 0
    drawn = (inputs - inputs.flatten(2).median(-1).values[..., None, None]).abs().sum(1, keepdim=True)
    covered = ((drawn * read).flatten(1).sum(1) / drawn.flatten(1).sum(1)).nanmedian()
    # Half the cross products along the outline: the signed area of the window, 4 for the whole picture, negative in a mirror.
    line = outline(transformer.family, params)
    area = cross(line[:, :-1], line[:, 1:]).sum(1) / 2
    window, mirrored = f"its window is {(area.abs() / 4).sqrt().median():.2f} pictures wide", (area < 0).float().mean()
    black = inputs.min() if transformer.padding_mode == "zeros" else 0
    checks = {
        "looks past the picture": (outside.median() > OUTSIDE, f"{outside.median():.0%} of what it sees is not picture; {window}."),
        "gray frame": (black < 0 and outside.mean() > FRAME, f"{outside.mean():.0%} of its view is zeros; black is {black:.2f}."),
        "zoomed in": (covered < NARROW, f"It reads {covered:.0%} of what is drawn; {window}."),
        "mirrored": (mirrored > MIRRORED, f"The determinant is negative for {mirrored:.0%} of the pictures."),
    }
    return {name: measured for name, (wrong, measured) in checks.items() if wrong}
