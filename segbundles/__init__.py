"""The console command ``segbundles``: this project's tools, and in a wheel the bundles and suites beside them.

An installed package holds the repository's folders ``scripts``, ``bundles``, ``suites`` and ``results`` as its own, so
that the tools find everything where they find it in the repository.
"""
