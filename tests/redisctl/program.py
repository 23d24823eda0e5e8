"""redisctl for a local Redis, as its own process.

python -m tests.redisctl.program ROOT VERB...
"""

import sys
from pathlib import Path

from redisctl.cli.main import cli, run_cli
from tests.redisctl.local_redis import load_local_instance

if __name__ == "__main__":
    instance = load_local_instance(Path(sys.argv[1]))
    sys.exit(run_cli(lambda: cli.main(sys.argv[2:], "redisctl", standalone_mode=False, obj=instance)))
