"""Python imports this at its start where the folder is on PYTHONPATH: in workers, too."""

import steps

steps.install()
