"""What every figure of a replay's report means, in words."""

from __future__ import annotations

VALUES = {
    "logged": "Mean reward of a shown slot in the log. With target = propensity, ips and snips of the logged policy "
    "equal it.",
    "ips": "Inverse propensity scoring: mean of w r, w = probability under the policy / propensity in the log "
    "(Horvitz and Thompson, 1952).",
    "snips": "Self-normalised ips: sum of w r / sum of w (Swaminathan and Joachims, 2015).",
    "clipped": "ips with weights cut at the clip (Ionides, 2008): biased downwards for rewards above 0.",
    "switch": "Switch-DR: rows with weights above the clip are left to the reward model (Wang et al., 2017).",
    "dr": "Doubly robust: mean of v + w (r - q) (Dudik et al., 2011).",
    "sndr": "Doubly robust with the correction divided by the sum of weights (Thomas and Brunskill, 2016).",
    "dros": "Doubly robust with optimistic shrinkage of the weights (Su et al., 2020).",
    "matching": "Mean reward of the slots whose item the policy would choose too, weighted by its probability; only on "
    "logs in which every item was equally likely (Li et al., 2011).",
    "dm": "Direct method: what the reward model expects of the policy. No interval: the spread of predictions is not "
    "their error.",
    "logged_slate": "Mean sum of the rewards of a slate in the log.",
    "sips": "Slate ips: sum of a slate's rewards, weighted by the product over its slots (standard ips in Li et al., "
    "2018).",
    "rips": "Reward interaction ips: each slot's reward weighted by the product down to that slot (McInerney et al., "
    "2020).",
    "iips": "Independent ips: each slot's reward weighted by that slot's own ratio (Li et al., 2018).",
    "pi": "Pseudo-inverse for independent slots: slate reward times 1 - L + sum of the slots' ratios (Swaminathan et "
    "al., 2017).",
    "cascade_dr": "Doubly robust for users who look from top to bottom (Kiyohara et al., 2022).",
    "logged_session": "Mean discounted sum of the rewards of a session in the log.",
    "pdis": "Per-decision importance sampling: each reward of a session weighted by the product of all ratios up to it "
    "(Precup et al., 2000). Slots of a slate are steps, from top to bottom.",
    "weighted_pdis": "The same with each step's weights divided by their mean.",
    "sequential_dr": "Doubly robust over the steps of a session (Jiang and Li, 2016), with a reward model of one step.",
    "rejection": "Mean reward of the slots in decisions that were accepted with probability w / bound: what the policy "
    "lived through while it learned.",
    "snips_minus_logged": "snips less the mean of the log, on the same rows, paired by session.",
    "dr_minus_logged": "dr less the mean of the log, on the same rows, paired by session.",
}

LISTS = {
    "recall": "Share of what was liked in a decision that is among the first k of the list. One item liked: 1 or 0.",
    "hitrate": "1 if anything that was liked is among the first k, else 0.",
    "mrr": "1 / place of the first liked item among the first k, 0 without one.",
    "ndcg": "Sum of 1 / log2(place + 1) over liked items among the first k, over the same sum of the best list there "
    "is: that with min(k, number liked) hits in front.",
    "map": "Mean over liked items of the precision at their places, over min(k, number liked).",
    "precision": "Share of the first k that was liked; k counts also where the list is shorter.",
    "coverage": "Share of the items that could be listed which stood among the first k of any list.",
    "gini": "How unevenly items are listed: 0 all equally often, 1 one item only.",
    "novelty": "Mean of -log2(share of clicks on the item before the moment), in bits, over the first k.",
    "arp": "Mean number of clicks before the moment on the first k items.",
    "arp_share": "The same as a share of all clicks before the moment.",
    "tail_share": "Share of the first k outside the head, the fewest items with 80 % of the clicks.",
    "serendipity": "Liked and not what everybody gets: sum over liked items of max(rank score - popularity score, 0) "
    "over k.",
    "ild": "Mean distance between two items of a list.",
    "calibration": "How far the categories of the list are from those of the user's clicks.",
}

RULES = {
    "Row of a value": "A shown slot with a known propensity. Its reward is the sum of weight x strength of the "
    "reactions to it within the attribution time.",
    "Row of a list": "A decision. In a click log each click is one: what would have been shown just before it? The "
    "first click of a session is left out, for nothing is known of the session then.",
    "Ties": "A list has an order and no ties: each policy says which of equal items comes first.",
    "Missing lists": "A decision without a list counts, with 0 in every accuracy metric. One in which nothing was "
    "liked has no accuracy and is left out of those means.",
    "Candidates": "What came with the request; without that, every item that a policy knew at the start, that was "
    "declared, or that the log has mentioned before. No sample of them.",
    "Interval": "From the spread of sums over 4,096 hash buckets of sessions (delta method, Student's quantile), "
    "unless the settings say another one.",
    "ESS": "Effective sample size (sum of w)^2 / (sum of w^2): so many equally weighted rows know as much.",
    "Reward model": "q(item, slot) = mean of the item + mean of the slot - mean of all, each drawn towards the mean of "
    "all by 50 rows. It is made of rows that had earned their reward before every scored row: 0 in the first block.",
    "Prequential": "Every decision is judged before anything closed less than the delay before it may be learned.",
    "Fingerprint": "Sum modulo 2^128 of hashes of every shown slot that was scored: user, time, slot, item, reward, "
    "propensity. Equal for the same rows in any order.",
}
