"""From the catalog to the bundles: configs, documentation, tables."""
