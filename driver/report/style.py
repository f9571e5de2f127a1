"""The style sheet of the report: system fonts, light or dark as the reader's system is."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --back: #fcfcfb; --ink: #1d2023; --dim: #646b73; --line: #dfe2e5; --panel: #f2f3f4;
  --bar: #9fb2c8; --good: #2f7d5b; --bad: #b3402e; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --ink: #e7e9eb; --dim: #98a0a8; --line: #30353a;
  --panel: #1f2327; --bar: #4d6480; --good: #4fae86; --bad: #e0745f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
h3 { margin: 1.2rem 0 .3rem; font-size: .95rem; color: var(--dim); font-weight: 600; }
p { margin: .4rem 0; max-width: 75ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { background: var(--panel); border-radius: 6px; padding: .6rem .8rem; display: grid;
  align-content: start; }
.tile b { font-size: 1.3rem; font-variant-numeric: tabular-nums; } .tile span { color: var(--dim); font-size: .82rem; }
pre { background: var(--panel); border-radius: 6px; padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; white-space: nowrap; } .n { text-align: right; white-space: nowrap; }
details ul { margin: .2rem 0; padding-left: 1.1rem; max-height: 20rem; overflow: auto; } summary { cursor: pointer; }
.idle { color: var(--dim); } .kept { color: var(--good); font-weight: 600; }
.failed, .over-contract, .over-max-drop, .unsupported { color: var(--bad); }
.chart { display: block; width: 100%; max-width: 780px; height: auto; margin: .4rem 0; font-size: 12px; }
.chart text { fill: var(--ink); } .chart .label { text-anchor: end; fill: var(--dim); }
.chart .plain { fill: var(--bar); } .chart .good { fill: var(--good); }
.chart .bad { fill: var(--bad); } .chart .note { fill: var(--dim); font-size: 10px; }
.chart .grid { stroke: var(--line); } .chart .line { fill: none; stroke: var(--good); stroke-width: 1.5; }
.chart .whisker { stroke: var(--ink); stroke-width: 1.5; }
.chart .mark { stroke: var(--dim); stroke-dasharray: 3 3; }
@media print { details { display: block; } .scroll { overflow: visible; } }
"""
