from __future__ import annotations

import pytest

from streamrec.ope import codes
from streamrec.ope.codes import REFUSALS, WARNINGS, Refused, Warned

REFUSE = {
    *("no_propensity", "bad_propensity", "not_a_distribution", "time_disorder", "future_leak", "replay_non_uniform"),
    *("duplicate_slot", "duplicate_item", "empty_log", "no_support", "policy_not_probabilistic", "sampled_metrics"),
}
WARN = {
    *("low_ess", "extreme_weight", "mean_weight_not_one", "support_gap", "out_of_range", "few_sessions"),
    *("dependent_rows", "cold_items", "dropped_rows", "timestamp_ties", "propensity_rounded", "deterministic_logger"),
    *("top_heavy", "drift", "model_based", "q_overestimation", "not_converged"),
}


def test_every_code_of_the_requirements_exists() -> None:
    assert set(REFUSALS) >= REFUSE
    assert set(WARNINGS) >= WARN
    assert not set(REFUSALS) & set(WARNINGS)


def test_every_constant_has_its_sentence_and_every_sentence_its_constant() -> None:
    constants = {value for name, value in vars(codes).items() if name.isupper() and isinstance(value, str)}
    assert constants == set(REFUSALS) | set(WARNINGS)


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_a_refusal_says_what_was_found_and_what_is_needed(code: str) -> None:
    refused = Refused(code, "3 rows are odd")
    assert refused.code == code
    assert str(refused) == f"{code}: 3 rows are odd. {REFUSALS[code]}"
    assert str(Refused(code)) == f"{code}: {REFUSALS[code]}"


@pytest.mark.parametrize("code", sorted(WARNINGS))
def test_a_warning_says_what_was_found_and_what_is_needed(code: str) -> None:
    assert Warned.of(code, "odd").message == f"{code}: odd. {WARNINGS[code]}"


def test_an_unknown_code_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="unknown code"):
        Refused("low_ess")
    with pytest.raises(ValueError, match="unknown code"):
        Warned.of("no_support")
