"""Reports: what draws, fits and certificates look like in a terminal.

Contract. Every file holds one kind of thing to show: a function or dataclass from arrays and
results to something that `rich` prints, or to SVG or HTML text. Nothing here samples, fits, or asks
a model; nothing prints by itself but `progress`. What is printed fits the width that the console
has, and does without colours and block characters where the console lacks them.

    completions   distributions side by side: text, reward, log-weight, rank
    estimates     log Z and ESS by sampler
    certificates  limits on log Z and on both divergences, as numbers and as a picture
    panels        histograms of a quantity side by side, on common axes
    histogram     their counts and columns, and curves in one line
    highlight     words that count, in a text
    progress      what is going on, on stderr
    run           the page of a run: curves, certificates, completions, configuration
    curves        metrics and limits over steps, as SVG in the colours of its page
    smoothing     their averages
    numbers       numbers as a page shows them
    frontier      reward against KL: the optimal curve and points beside it, as SVG
    genealogy     particles and where they came from, as SVG
    weights       weights of particles over time, as SVG
    figure        the look of these figures (matplotlib, imported when one is drawn)
    page          one HTML page of figures, tables and prose
    palette       one colour per distribution
"""
