"""Showing results: tables, figures and one self-contained page; works on scores and summaries and never needs torch."""
