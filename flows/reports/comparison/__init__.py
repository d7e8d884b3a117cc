"""Shows how a dataset's experiments compare.

gather.py collects a Report; page.py, markdown.py and terminal.py show it.

trackway compare digits --out report.html
"""
