"""Write the dashboard's TypeScript types of the API from the OpenAPI document.

The document is that of the application itself. With `--check` nothing is written, and
the status is 1 where the file is not what would be.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from service.app import create_app
from service.settings import load
from service.web.docs import DOCUMENTATION

PROJECT = Path(__file__).resolve().parent.parent
GENERATOR = PROJECT / "dashboard" / "node_modules" / ".bin" / "openapi-typescript"
TYPES = PROJECT / "dashboard" / "src" / "api" / "schema.ts"
TIMEOUT_S = 120


def generate() -> str:
    """Make the types of the API as it is now."""
    # As shipped: no setting of this machine may show in them.
    document = create_app(load().settings)[DOCUMENTATION].encode()
    done = subprocess.run(
        [GENERATOR],
        input=document,
        capture_output=True,
        cwd=PROJECT / "dashboard",
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode or not done.stdout:
        sys.exit(f"{GENERATOR.name} failed:\n{done.stderr.decode()}")
    return done.stdout.decode()


def main() -> None:
    """Write the types, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    is_check = parser.parse_args().check
    if not GENERATOR.exists():
        sys.exit("the dashboard's packages are not installed: make dashboard")
    name = TYPES.relative_to(PROJECT)
    types = generate()
    written = TYPES.read_text(encoding="utf-8") if TYPES.exists() else ""
    if types == written:
        sys.stdout.write(f"{name}: as the API is\n")
    elif is_check:
        sys.exit(f"{name} is not as the API is: make format writes it anew")
    else:
        TYPES.parent.mkdir(parents=True, exist_ok=True)
        TYPES.write_text(types, encoding="utf-8")
        sys.stdout.write(f"{name}: written\n")


if __name__ == "__main__":
    main()
