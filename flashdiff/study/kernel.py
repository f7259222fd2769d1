"""The kernel of a stage: ipykernel's own, without what libraries load and no stage needs.

python -m flashdiff.study.kernel -f CONNECTION_FILE
"""

import sys
from pathlib import Path

from flashdiff.late_imports import defer_dynamo, leave_out_grammar

if __name__ == "__main__":
    if Path(sys.path[0]) == Path.cwd():  # as ipykernel's launcher: a file of the study's folder hides no library
        del sys.path[0]
    defer_dynamo()
    leave_out_grammar()

    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
