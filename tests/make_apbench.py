"""Makes `benchmark/data/apbench.json` from the facts about the 2024 benchmark.

    python tests/make_apbench.py FACTS.json

FACTS.json is the parsed leaderboard and link table of the benchmark's repository; the commit it was
read at stands in it and goes into the table.
"""

import json
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "benchmark" / "data" / "apbench.json"
DATASETS = {"CIFAR-10": "cifar10", "SVHN": "svhn"}
FORMATS = {"RobustBird": "flyingbird"}
UNITS = {"weights": "unstructured", "filters": "filter", "channels": "channel", None: None}


def row_of(record: dict, methods: dict) -> dict:
    checkpoint, method = record["checkpoint"], methods[record["ap_key"]]
    trained = " ".join(str(method[stage]) for stage in ("finetuning", "training_step"))
    return {
        "key": checkpoint["key"],
        "method": record["method"],
        "format": FORMATS.get(record["method"], record["method"].lower()),
        "architecture": record["architecture"],
        "dataset": DATASETS[record["dataset"]],
        "structure": UNITS[record["pruning_unit"]],
        "sparsity": record["sparsity"],
        "objective": "trades" if "TRADES" in trained else "adversarial",
        "clean_accuracy": round(record["clean_accuracy"] / 100, 4),
        "paper": method["paper_url"],
        "code": record["method_code_url"] or "",
        "drive_id": [
            checkpoint["gdrive_id"],
            *checkpoint.get("other_gdrive_ids_under_the_same_key", []),
        ],
        "extension": checkpoint["extension"],
    }


def table_of(facts: dict) -> dict:
    methods = {entry["ap_key"]: entry for entry in facts["taxonomy"]}
    rows = [row_of(record, methods) for record in facts["records"] if record["checkpoint"]]
    source = facts["source"]
    return {
        "schema_version": 1,
        "source": {
            "repository": source["repository"],
            "commit": source["commit"],
            "file": "taxonomy/models.py",
            "paper": source["paper"],
            "note": "Links and figures only. Sparsity and clean accuracy are the source's claims; "
            "who trained a checkpoint is not stated. No file was seen when the table was made.",
        },
        "checkpoints": sorted(rows, key=lambda row: row["key"]),
    }


def text_of(table: dict) -> str:
    """Returns the table as JSON, one checkpoint a line."""
    head = json.dumps({**table, "checkpoints": []}, indent=1, ensure_ascii=False)
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in table["checkpoints"])
    return head.replace('"checkpoints": []', f'"checkpoints": [\n{lines}\n ]') + "\n"


if __name__ == "__main__":
    TARGET.write_text(text_of(table_of(json.loads(Path(sys.argv[1]).read_text()))))
