"""Operating an installation: setting it up, checking the machine, starting, stopping and looking at its processes."""
