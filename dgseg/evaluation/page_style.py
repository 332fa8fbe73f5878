"""How page.py looks, and the one thing that moves: a click enlarges a picture."""

STYLE = """
:root { --ink: #1c2530; --muted: #5d6a78; --line: #e1e7ed; --soft: #f5f7f9; --accent: #0072b2; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1.5rem; }
body { margin: 0; display: grid; grid-template-columns: 14rem minmax(0, 76rem); color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 2.2rem 1rem 1rem 1.6rem;
  border-right: 1px solid var(--line); background: var(--soft); }
nav p { margin: 0 0 .6rem; color: var(--muted); font-size: .78rem; letter-spacing: .08em; text-transform: uppercase; }
nav ol { margin: 0; padding: 0; list-style: none; }
nav a { display: block; padding: .28rem 0; color: var(--ink); text-decoration: none; }
nav a:hover, a { color: var(--accent); }
main { padding: 2rem 2.4rem 5rem; min-width: 0; }
header { border-bottom: 3px solid var(--accent); margin-bottom: 1.4rem; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.25; overflow-wrap: anywhere; }
header p { margin: .3rem 0 1rem; color: var(--muted); }
section { margin-bottom: 3rem; }
h2 { margin: 0 0 1rem; font-size: 1.3rem; }
h3 { margin: 1.6rem 0 .6rem; font-size: 1rem; }
.note { margin: .5rem 0 1rem; max-width: 60rem; color: var(--muted); font-size: .86rem; }
.warning { padding: .7rem 1rem; border-left: 4px solid #d55e00; background: #fdf1e9; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; }
.tile { min-width: 8rem; padding: .7rem 1.1rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--soft); }
.tile b { display: block; font-size: 1.65rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .86rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { padding: .35rem .8rem; color: var(--muted); font-weight: 600; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #b9c3cd; vertical-align: bottom; }
td { padding: .32rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; text-align: left; white-space: nowrap; }
tbody tr:hover { background: var(--soft); }
td.inside { padding-left: 1.4rem; color: var(--muted); }
td.bar { min-width: 11rem;
  background: linear-gradient(to right, #b9dcf0 var(--share), transparent var(--share)) no-repeat 0 50% / 100% 62%; }
.heat td:not(:first-child) { min-width: 4.4rem; border: 2px solid #fff;
  background: color-mix(in srgb, #009e73 calc(var(--heat) * 62%), #f4f6f8); }
.heat td.none { background: none; color: var(--muted); }
.heat td:first-child { border: 0; }
i { display: inline-block; width: .85rem; height: .85rem; margin-right: .5rem; vertical-align: -.1rem;
  border: 1px solid rgb(0 0 0 / .25); border-radius: .15rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1.5rem;
  align-items: start; }
.pair > div > h3 { margin-top: 0; }
.plot { display: block; max-width: 100%; height: auto; }
.tabs { display: flex; flex-wrap: wrap; gap: .35rem; }
.tabs > input { position: absolute; opacity: 0; pointer-events: none; }
.tabs > label { order: 0; padding: .25rem .8rem; border: 1px solid var(--line); border-radius: 2rem; cursor: pointer;
  font-size: .9rem; }
.tabs > label:hover { border-color: var(--accent); }
.tabs > input:checked + label { color: #fff; background: var(--accent); border-color: var(--accent); }
.tabs > input:focus-visible + label { outline: 2px solid var(--ink); outline-offset: 2px; }
.tabs > .tab { order: 1; display: none; width: 100%; padding-top: .8rem; }
.tabs > input:checked + label + .tab { display: block; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0 0 1rem; font-size: .86rem; }
.caption { margin: 1rem 0 .35rem; font-size: .88rem; overflow-wrap: anywhere; }
.views { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .5rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; cursor: zoom-in; border-radius: .2rem; }
figcaption { color: var(--muted); font-size: .8rem; text-align: center; }
section > ul { max-width: 60rem; padding-left: 1.2rem; }
.facts :is(th, td) { text-align: left; overflow-wrap: anywhere; }
.facts td:first-child { padding-right: 2rem; color: var(--muted); vertical-align: top; }
.skipped { font-size: .88rem; overflow-wrap: anywhere; }
#zoom { position: fixed; inset: 0; display: none; place-items: center; padding: 2rem; background: rgb(10 14 18 / .86);
  cursor: zoom-out; }
#zoom.open { display: grid; }
#zoom img { max-width: 100%; max-height: 100%; min-width: min(90vw, 60rem); object-fit: contain; }
@media (max-width: 60rem) { body { display: block; } nav { position: static; height: auto; border-right: 0; }
  main { padding: 1.2rem; } nav ol { display: flex; flex-wrap: wrap; gap: 0 1.2rem; } }
@media print { nav { display: none; } body { display: block; } .tabs > .tab { display: block; } }
"""

SCRIPT = """
const zoom = document.getElementById("zoom");
const close = () => { zoom.className = ""; zoom.replaceChildren(); };
document.querySelectorAll("figure img").forEach(image => image.addEventListener("click", () => {
  zoom.replaceChildren(image.cloneNode());
  zoom.className = "open";
}));
zoom.addEventListener("click", close);
addEventListener("keydown", event => { if (event.key === "Escape") close(); });
"""
