"""What the chapters share: data, models, attacks, losses, training, metrics, studies, claims and plots.

Import direction: chapters -> study, claims, plots -> training, attacks -> models, losses, metrics, data.
"""
