"""The page of a report: its frame, and how it looks by day and by night. Nothing is loaded from elsewhere."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c636b; --line: #d9dde2; --page: #f6f7f9; --card: #fff;
  --c0: #0072b2; --c1: #d55e00; --c2: #00805f; --c3: #b0528c; --good: #00704f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb5; --line: #3a4048; --page: #14171a;
  --card: #1d2125; --c0: #5ab4ee; --c1: #f5924a; --c2: #35c49a; --c3: #e28fc2; --good: #58d0a5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 24px 20px 60px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 26px; overflow-wrap: anywhere; } h2 { margin: 40px 0 10px; font-size: 19px; }
h3 { margin: 22px 0 8px; font-size: 16px; }
.state { display: inline-block; padding: 1px 10px; border: 1px solid currentColor; border-radius: 10px;
  font-size: 13px; font-weight: 400; vertical-align: middle; }
.note, .none, small { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile:first-child { grid-column: span 2; }
.tile, .plot, article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile { padding: 10px 14px; } .tile dt { color: var(--soft); font-size: 13px; }
.tile dd { margin: 0; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 14px; }
.plot { margin: 0; padding: 12px 14px 6px; min-width: 0; } figcaption { font-weight: 600; font-size: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 2px 0 4px; padding: 0; list-style: none;
  color: var(--soft); font-size: 13px; min-height: 20px; }
.key { display: inline-block; width: 16px; margin-right: 6px; vertical-align: middle; border-top: 3px solid; }
.key.dashed { border-top-style: dashed; } .key.fill { height: 11px; border-top-width: 11px; border-radius: 2px; }
i.c0 { color: var(--c0); } i.c1 { color: var(--c1); } i.c2 { color: var(--c2); } i.c3 { color: var(--c3); }
i.chance { color: var(--ink); }
svg { display: block; width: 100%; height: auto; } svg .c0 { --c: var(--c0); } svg .c1 { --c: var(--c1); }
svg .c2 { --c: var(--c2); } svg .c3 { --c: var(--c3); }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; } .dot, .fill { fill: var(--c); }
.hit { fill: transparent; } g:hover > .hit { fill: var(--soft); fill-opacity: .35; }
svg .grid { stroke: var(--line); } .axis, .chance, .whisker { stroke: var(--ink); } .chance { stroke-width: 2; }
.tick, .name { fill: var(--soft); font-size: 12px; } .name { fill: var(--ink); font-size: 13px; }
article { margin: 10px 0; padding: 10px 14px; } article p { margin: 0 0 4px; }
.choices { display: flex; flex-wrap: wrap; gap: 6px; margin: 6px 0 10px; padding: 0; list-style: none; }
.choices li { padding: 1px 10px; border: 1px solid var(--line); border-radius: 10px; font-size: 13px; }
.choices .right { border-color: var(--good); color: var(--good); font-weight: 600; }
.scroll { overflow-x: auto; } table { width: 100%; border-collapse: collapse; font-size: 13px; }
th, td { padding: 4px 10px 4px 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top;
  font-variant-numeric: tabular-nums; } th { color: var(--soft); font-weight: 400; border: 0; }
.said { width: 55%; min-width: 220px; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  font-family: ui-monospace, monospace; } .when { white-space: nowrap; }
summary { cursor: pointer; } pre { overflow-x: auto; padding: 12px; background: var(--card); font-size: 13px;
  border: 1px solid var(--line); border-radius: 8px; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head><body>
<header><h1>{name} <span class="state">{state}</span></h1>{torn}</header>
<main><dl class="tiles">{numbers}</dl>
<h2>Learning</h2><div class="grid">{plots}</div>
<h2>Accuracy by kind of question</h2>{categories}
<h2>Completions</h2>{samples}
<h2>Job file</h2><details><summary>job.yaml</summary><pre>{job}</pre></details>
<h2>Events</h2><details><summary>What happened, and when</summary><p class="note">{hidden}</p>
<div class="scroll"><table><thead><tr><th>time</th><th>kind</th><th>detail</th></tr></thead><tbody>{events}</tbody>
</table></div></details></main></body></html>
"""
