"""The single list of bundles, their recipes, and what their ids mean."""
