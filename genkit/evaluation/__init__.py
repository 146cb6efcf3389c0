"""Models compared with real data: drawing, features, distances with intervals, and the page that shows them.

    evaluating    `genkit.evaluate`: models, data and settings -> an evaluation
    comparing     real items, and the networks and measures by which samples are compared with them
    results       an evaluation: rows of figures; as a table, JSON, CSV
    page          an evaluation as one HTML file
    plots         measures against each other, as SVG
    scores        figures of two sets of features, and their intervals
    gains         what resampling by a critic's scores gains
    features      feature networks, the user's own among them; features of real items, kept on disk
    real          real items of a source, in disjoint parts; noise

What a figure means depends on the modality: feature networks and measures of its own are the plugin's.
"""
