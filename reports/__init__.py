"""Jinja templates of the Markdown and HTML reports."""
