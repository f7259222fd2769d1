"""One image at a time, for people: move the level and see severity move, then restore the image from where it says.

encoders: which degradations can be shown; explorer: what the models say of a measurement, and walks; restoring: walks that
report and can be stopped; charts: pictures and curves as the browser takes them; page: the widgets, for Voila and JupyterLab
(``notebooks/explore_severity.ipynb``). They need the extra ``lab``; no stage runs any of this.
"""
