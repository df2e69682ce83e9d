"""The program that runs inside the remote container: standard library only, shipped as a zipapp."""
