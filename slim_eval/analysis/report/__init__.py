"""The parts of `report.html`: what each section shows, as plain data, and the page, style and scripts beside them.

Python decides every number and every word; the template only places them, and the scripts sort, filter and draw.
"""
