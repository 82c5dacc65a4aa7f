"""Which means a recipe's section shows, over how many classes, and which its claim rests on."""

from __future__ import annotations

from kdcli.student.experiments.recipe import METRICS, over_all
from kdcli.student.experiments.report.results import BY_KEY, RecipeResult
from kdcli.voc.metrics import FREQUENT, LEAST_OBJECTS


def shown_metrics(result: RecipeResult) -> tuple[str, ...]:
    """Return the recipe's metrics, without those over frequent classes that add nothing.

    That is so where every class is frequent, and the mean the one over all; where none is; and as
    long as no finished run tells.
    """
    metrics = result.recipe.metrics
    return tuple(m for m in metrics if over_all(m) == m or not _adds_nothing(result, m))


def claimed_metrics(result: RecipeResult) -> tuple[str, ...]:
    """Return those of the metrics shown that the recipe's claim rests on; none if it does not say.

    The mean over all classes takes the place of one that is not shown.
    """
    shown = shown_metrics(result)
    claim = (m if m in shown else over_all(m) for m in result.recipe.claim)
    return tuple(dict.fromkeys(claim))


def explanation(result: RecipeResult) -> str:
    """Return sentences that say which classes the means are over, and what the claim rests on."""
    frequent = result.frequent
    several = any(over_all(metric) != metric for metric in result.recipe.metrics)
    parts = [f"Evaluated on {result.record['evaluated_on']}."]
    if frequent is None:
        return parts[0]
    if several and not frequent:
        parts.append(f"No class has {LEAST_OBJECTS} objects there: there is no mean over frequent "
                     "classes.")  # fmt: skip
    elif several and _all_are_frequent(result):
        parts.append(f"Each of the {counted(frequent)} has at least {LEAST_OBJECTS} objects: the "
                     "means over frequent classes are those over all.")  # fmt: skip
    elif several:
        parts.append(f"Frequent: with at least {LEAST_OBJECTS} objects there, {counted(frequent)} "
                     f"({', '.join(frequent)}); IoU with the background, too.")  # fmt: skip
    if claimed := claimed_metrics(result):
        parts.append(f"The claim rests on {' and '.join(METRICS[m] for m in claimed)}.")
    return " ".join(parts)


def _adds_nothing(result: RecipeResult, metric: str) -> bool:
    return over_all(metric) in result.recipe.metrics and (
        not result.frequent or _all_are_frequent(result)
    )


def _all_are_frequent(result: RecipeResult) -> bool:
    told = ((result.classes(key + FREQUENT), result.classes(key)) for key in BY_KEY)
    return next((frequent == every for frequent, every in told if frequent is not None), False)


def counted(classes: tuple[str, ...] | None) -> str:
    """Return a number of classes in words; empty if it is not known."""
    return f"{len(classes)} class" + ("es" if len(classes) > 1 else "") if classes else ""
