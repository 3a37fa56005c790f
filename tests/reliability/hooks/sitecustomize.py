"""Python imports this at every start where its folder is on PYTHONPATH: in a command and in its workers alike."""

import steps

steps.install()
