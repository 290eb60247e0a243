"""How the report looks: one style sheet, light and dark by the reader's setting. No fonts, no scripts, no addresses."""

CSS = (
    """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --text: #1c2430; --soft: #5b6675; --rule: #e3e7ec;
  --a: #1f6feb; --b: #d9730d; --c: #c62a47; --slo: #16803c; --act: #8250df; }
@media (prefers-color-scheme: dark) { :root { --page: #101418; --card: #181d23; --text: #e8ebef; --soft: #9aa5b1;
  --rule: #2a323b; --a: #6cb0ff; --b: #f2a65a; --c: #ff7b8f; --slo: #5bd68a; --act: #c09bff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 28px 0 10px; }
.sub { color: var(--soft); margin: 2px 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 12px; margin-bottom: 16px; }
.tile, figure, .panel { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; }
.tile { padding: 10px 12px; } .tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.told { color: var(--act); font-size: 13px; margin: 0 0 10px; } .tile span { color: var(--soft); font-size: 13px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 14px; }
figure { margin: 0; padding: 12px 14px 4px; min-width: 0; } figure.wide { grid-column: 1 / -1; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; margin-bottom: 4px; }
figcaption b { margin-right: auto; } .key, .scale { color: var(--soft); font-size: 13px; }
.key::before { content: ""; display: inline-block; width: 16px; height: 3px; margin-right: 6px; vertical-align: middle;
  background: currentColor; }
.key.a::before { background: var(--a); } .key.b::before { background: var(--b); }
.key.c::before { background: var(--c); }
.key.demand::before { background: var(--soft); } .key.starting::before { background: var(--slo); }
.key.draining::before { background: var(--c); } .key.wide::before { height: 10px; opacity: .25; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
text { fill: var(--text); font-size: 12px; font-variant-numeric: tabular-nums; }
.tick, .label { fill: var(--soft); } .tick.x, .label { text-anchor: middle; } .tick.y { text-anchor: end; }
.grid { stroke: var(--rule); fill: none; } .axis { stroke: var(--soft); fill: none; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.line.a { stroke: var(--a); } .line.b { stroke: var(--b); } .line.c { stroke: var(--c); }
.line.starting { stroke: var(--slo); stroke-dasharray: 5 3; }
.line.draining { stroke: var(--c); stroke-dasharray: 2 3; } .band.demand { fill: var(--soft); }
.band { opacity: .2; } .band.a { fill: var(--a); }
.mark path { fill: none; stroke-width: 1.5; } .mark.slo path { stroke: var(--slo); stroke-dasharray: 5 3; }
.mark.slo text { fill: var(--slo); } .mark.action path { stroke: var(--act); stroke-dasharray: 2 3; }
.floor { fill: var(--page); } .row { fill: transparent; }
[class^=h] { shape-rendering: crispEdges; }
"""
    + "".join(
        f".h{shade} {{ fill: var(--a); background: var(--a); opacity: {0.08 + 0.92 * shade / 9:.2f}; }}\n"
        for shade in range(1, 10)
    )
    + """
.scale i { display: inline-block; width: 12px; height: 10px; }
.panel { padding: 4px 14px; overflow-x: auto; max-height: 480px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
.words td:last-child { white-space: normal; overflow-wrap: anywhere; } tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; position: sticky; top: 0; background: var(--card); }
tbody th { font-weight: 500; } .halves { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
@media print { body { background: none; } .panel { max-height: none; } }
"""
)
