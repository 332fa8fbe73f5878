"""What every report is made of: tables, charts, and pages that need nothing but themselves.

table.Table is written as text, CSV, LaTeX, Markdown or a part of a page; chart.Chart is a figure in which a name is a
name, whatever signs it holds; page.render fills a template of templates/ with both. What a report says is decided
elsewhere: in tables.py and page.py for one evaluation, comparison.py for two models, runs/study for many runs. The
modules are imported one by one: tables need no matplotlib, charts no Jinja."""
