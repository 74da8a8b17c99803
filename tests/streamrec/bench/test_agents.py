from __future__ import annotations

import json
import math
from pathlib import Path

from streamrec.bench import agents
from streamrec.bench.arena import ENDS, load, ready


def test_the_short_form_runs_every_agent_in_every_shipped_world(tmp_path: Path) -> None:
    results = agents.run(tmp_path, seeds=1, short=True, jobs=2)
    rows = {(row["world"], row["agent"]): row for row in results["results"]}
    arenas = {name: load(name) for name in ready()}
    assert set(rows) == {(name, agent) for name, arena in arenas.items() for agent in (*ENDS, *arena["agents"])}
    assert all(math.isfinite(row["score"]) and row["decisions"] > 0 for row in rows.values())
    assert [(c["world"], c["claim"]) for c in results["claims"]] == [
        (name, claim) for name, arena in arenas.items() for claim in arena["claims"]
    ]
    assert all(claim["control"] is not None for claim in results["claims"] if arenas[claim["world"]].get("null"))
    assert not any(claim["holds"] for claim in results["claims"]), "one seed proves nothing"
    assert json.loads((tmp_path / "results.json").read_text())["results"] == results["results"]
    page = Path(results["report"]).read_text()
    assert all(name in page for name in arenas)
