"""How the report looks: one style sheet, for paper and night, desk and telephone."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f8; --card: #ffffff; --ink: #1f2328; --quiet: #5b6470; --line: #dfe3e8;
  --accent: #0b62a8;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #101214; --card: #1a1a1a; --ink: #e4e6e9; --quiet: #a0a8b2; --line: #33373c;
    --accent: #7cc0f5; }
  /* White becomes the card's colour, and hues stay what they are. */
  .plot img { filter: invert(0.9) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 40px 0 12px; padding-top: 8px; }
h3 { font-size: 1rem; margin: 0 0 6px; }
p { margin: 0 0 8px; max-width: 75ch; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 12px 0 0; }
.quiet, figcaption, .plot p { color: var(--quiet); font-size: 0.875rem; overflow-wrap: anywhere; }
.numbers { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr));
  margin: 20px 0; padding: 0; }
.numbers div, .card, figure, details { background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
.numbers div { padding: 8px 10px; }
.numbers dt { color: var(--quiet); font-size: 0.8125rem; }
.numbers dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.grid { display: grid; gap: 16px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); }
figure { margin: 0; padding: 14px; min-width: 0; }
figure img { display: block; max-width: 100%; height: auto; }
.plot img { width: 100%; }
.plot p { margin: 6px 0 0; }
.scroll { overflow: auto; max-width: 100%; }
.wide { grid-column: 1 / -1; }
.wide img { min-width: 900px; }
.high { grid-row: span 2; }
.grid + h3 { margin-top: 28px; }
.tall .scroll { max-height: 560px; }
.photos { display: grid; gap: 12px; margin-bottom: 24px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 160px), 1fr)); }
@media (min-width: 700px) {
  .photos { grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); }
}
.photos.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
.photos figure { padding: 6px; }
.photos img { width: 100%; border-radius: 4px; }
.photos figcaption { padding: 4px 2px 0; font-size: 0.8125rem; }
.key { display: flex; flex-wrap: wrap; gap: 4px 14px; list-style: none; padding: 0;
  margin: 0 0 10px; font-size: 0.875rem; }
.key span { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; border: 1px solid var(--line); }
.card { padding: 8px 14px; margin-bottom: 16px; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 18px 5px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
td.best { font-weight: 700; color: var(--accent); }
tr:last-child td { border-bottom: 0; }
details { padding: 10px 14px; margin-bottom: 16px; }
summary { cursor: pointer; font-weight: 600; }
pre { margin: 8px 0 0; overflow-x: auto; font: 0.8125rem/1.5 ui-monospace, Menlo, monospace; }
footer { padding: 32px 16px; color: var(--quiet); font-size: 0.8125rem; }
"""
