"""The landscape for a GPU, from a bare environment: python workflow/large.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from reasoning_distill.large import main

if __name__ == "__main__": raise SystemExit(main())
