"""The runner: the program that runs the step inside the job. Standard library only, shipped as a zipapp."""
