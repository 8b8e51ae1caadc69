"""Reports of suites: one HTML page and the Markdown tables, made of the results that ``experiments collect`` wrote."""
