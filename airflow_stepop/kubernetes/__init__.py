"""The parts of the ``kubernetes`` backend. None imports the package ``kubernetes`` when it is loaded."""
