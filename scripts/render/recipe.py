"""The parts of a config that a recipe decides: loss, learning rate, optimizer."""

from scripts.catalog.recipes import Recipe
from scripts.render.data import WORKFLOW, Config

STEPS = "@epochs * len(@train::dataloader)"


def loss(recipe: Recipe) -> Config:
    """Weighted cross-entropy and the papers' Dice: squared denominator, over the whole batch, with background."""
    ce, dice = recipe.loss_weights
    how: Config = {"_target_": "DiceCELoss"}
    if recipe.balanced:
        weights = "$workflow.balanced_weights(@train::dataset).to(@device)"
        how = {"_target_": f"{WORKFLOW}.BalancedDiceCELoss", "weight": weights}
    if recipe.robust:
        weights = "workflow.balanced_weights(@train::dataset, power=0.5).to(@device)"
        how["weight"] = f"${weights} if workflow.truth(@balanced_loss) else None"
    return {
        **how,
        "to_onehot_y": True,
        "softmax": True,
        "squared_pred": True,
        "batch": True,
        "smooth_nr": 1e-05,
        "smooth_dr": 1e-05,
        "lambda_ce": ce,
        "lambda_dice": dice,
    }


def lr_scheduler(recipe: Recipe) -> Config:
    """Decay per step, or a rate that only ``Plateau`` changes."""
    if recipe.decay == "constant":
        return {"_target_": "torch.optim.lr_scheduler.ConstantLR", "optimizer": "@optimizer", "factor": 1.0}
    if recipe.decay == "cosine":
        return warm_cosine()
    return {
        "_target_": "torch.optim.lr_scheduler.PolynomialLR",
        "optimizer": "@optimizer",
        "total_iters": f"${STEPS}",
        "power": 0.9,
    }


def warm_cosine() -> Config:
    """A linear rise over a share of the steps, then half a cosine to zero."""
    return {
        "_target_": "monai.optimizers.WarmupCosineSchedule",
        "optimizer": "@optimizer",
        "warmup_steps": f"$round(@warm_up * {STEPS})",
        "t_total": f"${STEPS}",
        "warmup_multiplier": 0.01,
    }


def optimizer(recipe: Recipe) -> Config:
    """The recipe's optimizer over all parameters."""
    target, arguments = recipe.optimizer["_target_"], {k: v for k, v in recipe.optimizer.items() if k != "_target_"}
    return {"_target_": target, "params": "$@network.parameters()", "lr": "@learning_rate", **arguments}
