"""Figures of an analysis, as PNG and PDF: `figure` has the seam, `drawing` draws and writes all of them."""
