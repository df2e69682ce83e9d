"""A command that reads a file which is not shipped."""

import sys
from pathlib import Path

if len(sys.argv) > 1:
    print(Path(sys.argv[1] + ".yaml").read_text())
else:
    print((Path(__file__).parent / "unshipped_config.yaml").read_text())
