"""Settings of all tests; fixtures that several test files share go here, too."""

import os

import matplotlib

matplotlib.use("Agg")  # no window, whatever the user's matplotlibrc says
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # kernels of this environment, not those of the user's home
