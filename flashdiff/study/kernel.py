"""The kernel of a stage: ipykernel's own, but for torch._dynamo, which comes when it is asked for.

python -m flashdiff.study.kernel -f CONNECTION_FILE
"""

import sys
from pathlib import Path

from flashdiff.late_dynamo import defer_dynamo

if __name__ == "__main__":
    if Path(sys.path[0]) == Path.cwd():  # as ipykernel's launcher: a file of the study's folder hides no library
        del sys.path[0]
    defer_dynamo()

    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
