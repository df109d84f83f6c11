"""Figures of an analysis, as PNG and PDF: `figure` has the seam, `writing` writes all of them."""
