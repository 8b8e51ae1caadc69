raise ImportError("left out of the tests' subprocesses, see tests/conftest.py")
