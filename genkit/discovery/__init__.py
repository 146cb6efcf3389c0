"""Plugins: found, chosen, described, loaded, examined, begun.

registry    found without importing, described without torch, loaded one at a time
selection   which of the installed ones a user wants
probing     questions answered in processes of their own, within a time limit
doctor      a closer look at the installation
scaffold    the package that an author begins with: `templates/`, filled in
reference   the page of a modality, made from its manifest and its settings
"""
