"""Arguments that make each network small: for the common tester, and for runs of the bundles in tests."""

import networks

SMALL = {name: dict(getattr(networks, name).small) for name in networks.NETWORKS}
