"""Plugins: how they are found, selected, described, loaded, examined and started.

registry    finds plugins without importing them, reads manifests without torch, loads one plugin at a time
selection   the plugins that the user has disabled or allowed
probing     calls functions in child processes with a time limit
bundled     models that ship with plugins
doctor      examines the installation
scaffold    writes the package of a new modality from `templates/`
reference   makes a modality's reference page from its manifest and settings classes
"""
