"""Names of the classes that several parts know, without background, in the order of their label ids from 1."""

ORGANS = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
"""The organs of the Synapse multi-organ papers in the order of their tables."""

HEART = ("right ventricle", "myocardium", "left ventricle")
"""The structures of ACDC."""

PRECIPITATES = ("secondary precipitate", "tertiary precipitate")
"""The phases of the superalloys' micrographs, and of the phantom of them."""

COATING = ("oxide", "crack")
"""What the barrier coatings' micrographs show."""
