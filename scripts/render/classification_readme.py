"""Documentation of a bundle that classifies pictures."""


def classification_readme(bundle):
    return ""
