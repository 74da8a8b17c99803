"""Why an estimate is refused, or printed with a warning beside it.

A refusal is an exception and there is no number; a warning travels with the number. Each code has one sentence that
says what would be needed, and every message ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NO_PROPENSITY: Final = "no_propensity"
BAD_PROPENSITY: Final = "bad_propensity"
BAD_TARGET: Final = "bad_target"
BAD_REWARD: Final = "bad_reward"
NO_MODEL: Final = "no_model"
NO_RANGE: Final = "no_range"
NOT_A_DISTRIBUTION: Final = "not_a_distribution"
TIME_DISORDER: Final = "time_disorder"
FUTURE_LEAK: Final = "future_leak"
REPLAY_NON_UNIFORM: Final = "replay_non_uniform"
DUPLICATE_SLOT: Final = "duplicate_slot"
DUPLICATE_ITEM: Final = "duplicate_item"
EMPTY_LOG: Final = "empty_log"
NO_SUPPORT: Final = "no_support"
POLICY_NOT_PROBABILISTIC: Final = "policy_not_probabilistic"
SAMPLED_METRICS: Final = "sampled_metrics"
DIFFERENT_ROWS: Final = "different_rows"

LOW_ESS: Final = "low_ess"
EXTREME_WEIGHT: Final = "extreme_weight"
MEAN_WEIGHT_NOT_ONE: Final = "mean_weight_not_one"
SUPPORT_GAP: Final = "support_gap"
OUT_OF_RANGE: Final = "out_of_range"
FEW_SESSIONS: Final = "few_sessions"
DEPENDENT_ROWS: Final = "dependent_rows"
COLD_ITEMS: Final = "cold_items"
DROPPED_ROWS: Final = "dropped_rows"
TIMESTAMP_TIES: Final = "timestamp_ties"
PROPENSITY_ROUNDED: Final = "propensity_rounded"
DETERMINISTIC_LOGGER: Final = "deterministic_logger"
TOP_HEAVY: Final = "top_heavy"
DRIFT: Final = "drift"
MODEL_BASED: Final = "model_based"
Q_OVERESTIMATION: Final = "q_overestimation"
NOT_CONVERGED: Final = "not_converged"
NO_INTERVAL: Final = "no_interval"
ONE_DECISION: Final = "one_decision"

REFUSALS: Final[dict[str, str]] = {
    NO_PROPENSITY: "Log the probability with which each shown item was chosen, or ask for dm, which needs none.",
    BAD_PROPENSITY: "A propensity is the probability of what was shown: above 0, at most 1, and finite in every row.",
    BAD_TARGET: "The policy's probability of the logged item must be between 0 and 1, and finite in every row.",
    BAD_REWARD: "Rewards and model values must be finite, and rewards inside the declared reward range.",
    NO_MODEL: "Give q (the model's value of the logged item) and v (its mean under the policy), or drop the estimator.",
    NO_RANGE: "Declare what the interval is built on: reward_range, and where it asks for it max_weight.",
    NOT_A_DISTRIBUTION: "The policy's probabilities must be at least 0 and sum to 1 over the candidates, within 1e-6.",
    TIME_DISORDER: "Sort the log by time, or allow the lateness it has.",
    FUTURE_LEAK: "State and model values of a row may use only rows from before its time.",
    REPLAY_NON_UNIFORM: "Matching needs a log in which every candidate was equally likely; use snips or rejection "
    "corrected by propensities.",
    DUPLICATE_SLOT: "A decision must have each slot once; deduplicate the log or name the right decision column.",
    DUPLICATE_ITEM: "A list must hold an item at most once; deduplicate the list before it is scored.",
    EMPTY_LOG: "At least one row must be left after the filters.",
    NO_SUPPORT: "The log must hold rows whose item the policy would choose: log with more exploration, or evaluate a "
    "policy closer to the logged one.",
    POLICY_NOT_PROBABILISTIC: "The policy must say probabilities; a ranker becomes a policy by a declared wrapper "
    "such as epsilon-greedy or Plackett-Luce.",
    SAMPLED_METRICS: "Rank the full catalogue, or allow sampled candidates and accept a table marked not comparable.",
    DIFFERENT_ROWS: "A paired difference needs both policies evaluated on the same rows with the same settings.",
}
"""Code -> what would be needed. No number is printed."""

WARNINGS: Final[dict[str, str]] = {
    LOW_ESS: "More rows, a logger with more exploration, or a policy closer to the logged one.",
    EXTREME_WEIGHT: "More rows, larger propensities where the policy goes, or an estimator with bounded weights "
    "(clipped, switch, dros).",
    MEAN_WEIGHT_NOT_ONE: "Check that propensities are those of the decisions in the log and that the policy only "
    "chooses what the logger could.",
    SUPPORT_GAP: "Restrict the policy to items the logger could show, or log with exploration over them.",
    OUT_OF_RANGE: "More effective rows, or a self-normalised estimator, which cannot leave the range of rewards.",
    FEW_SESSIONS: "At least 500 sessions, so that the spread between sessions is known.",
    DEPENDENT_ROWS: "A session column, and an interval that treats sessions as the independent units.",
    COLD_ITEMS: "More history before the scored rows, or a policy that can score new items.",
    DROPPED_ROWS: "Look at the causes and mend the log, or accept what the rest stands for.",
    TIMESTAMP_TIES: "Finer timestamps; until then the order inside a tie is the order in the log.",
    PROPENSITY_ROUNDED: "Log propensities at full precision; a rounded small number is a wrong weight.",
    DETERMINISTIC_LOGGER: "A logger that explores; rows with propensity 1 say nothing about other items.",
    TOP_HEAVY: "More sessions, or a look at those few: they may be robots.",
    DRIFT: "Evaluate on the newest windows alone, or read the values by window.",
    MODEL_BASED: "A model-free estimate beside it; this value is as good as its model.",
    Q_OVERESTIMATION: "A model fitted without the rows it scores, and calibrated on held-out ones.",
    NOT_CONVERGED: "More iterations, a shorter horizon, or features under which the iteration contracts.",
    NO_INTERVAL: "An interval that fits this estimator: `session` and `bootstrap` fit all that have one.",
    ONE_DECISION: "A sequence estimator on sessions, or a test with users: this is the value of replacing one decision "
    "at a time in states the logger brought about.",
}
"""Code -> what would be needed. The number is printed with the code beside it."""


class Refused(ValueError):
    """No number, and why. `code` is a key of `REFUSALS`.

    Args:
        code: which refusal.
        found: what was found, a clause or sentence without the final stop; empty = the code says it all.
    """

    def __init__(self, code: str, found: str = "") -> None:
        self.code, self.found = code, found
        super().__init__(_message(code, found, REFUSALS))


@dataclass(frozen=True)
class Warned:
    """What stands beside a number. `code` is a key of `WARNINGS`, or of `REFUSALS` where the number is missing."""

    code: str
    message: str

    @classmethod
    def of(cls, code: str, found: str = "") -> Warned:
        """The warning with what was found and what would be needed."""
        return cls(code, _message(code, found, WARNINGS))


def _message(code: str, found: str, sentences: dict[str, str]) -> str:
    if code not in sentences:
        raise ValueError(f"unknown code {code!r}: expected one of {', '.join(sentences)}")
    return f"{code}: {found}. {sentences[code]}" if found else f"{code}: {sentences[code]}"
