"""The command of ``command_step.py``: reads model.bin, writes metrics.json. Any program would work."""

import json
from pathlib import Path

model = json.loads(Path("model.bin").read_bytes())
points = [(x / 8, 3 * x / 8 + 2) for x in range(-8, 9)]
errors = [abs(model["slope"] * x + model["intercept"] - y) for x, y in points]
Path("metrics.json").write_text(json.dumps({"points": len(points), "largest_error": max(errors)}))
print(f"scored {len(points)} points")
