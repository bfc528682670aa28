import atexit
import os
import shutil
import tempfile

from hypothesis import settings

# prometheus_client decides at import, for good, whether the processes of a service share their counters.
_folder = tempfile.mkdtemp(prefix="pushbridge-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder
atexit.register(shutil.rmtree, _folder, ignore_errors=True)

pytest_plugins = ["tests.plugins.standin"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("pushbridge", deadline=None)
settings.load_profile("pushbridge")
