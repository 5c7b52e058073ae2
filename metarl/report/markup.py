"""The page's building blocks: its style sheet, its script, and small functions that make HTML."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from metarl.report.entries import Entry
from metarl.report.figures.style import inline_svg, swatch
from metarl.report.tables import Column, bound_of, cell_text, has_interval, number_text

CSS = """
:root{color-scheme:light dark;--bg:#f7f8f9;--card:#fff;--ink:#202327;--soft:#5f6670;--line:#dfe2e6;--tint:#f3f5f7;
--shade:#0004;--least:0px;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#e69f00;--c5:#56b4e9;--c6:#000}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--card:#1e2125;--ink:#e6e8ea;--soft:#a2a9b1;--line:#363b41;
--tint:#25292e;--shade:#000b;--c0:#2f8fd0;--c1:#e8701a;--c2:#14b489;--c5:#8fd0f7;--c6:#f2f3f4}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);line-height:1.55}
body,button,svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif!important}
main{max-width:72rem;margin:0 auto;padding:clamp(1.2rem,4vw,3rem) clamp(.8rem,3vw,1.5rem) 4rem}
h1,h2,p,dd,li,code{overflow-wrap:anywhere}h1{font-size:1.9rem;line-height:1.2;margin:0 0 .6rem}
h2{font-size:1.35rem;margin:0}h3{font-size:1rem;margin:2rem 0 .6rem}a{color:var(--c0)}
section{margin-top:2.5rem;padding-top:2rem;border-top:1px solid var(--line)}
details p,.headlines,.protocol{max-width:46rem}
.soft,figcaption,table,dl,.legend,.headlines,.protocol{font-size:.875rem}
.soft,dt,thead,small,.ci{color:var(--soft)}.soft{margin:.3rem 0 1rem}.note{border-left:3px solid var(--c4);
padding-left:.8rem;font-size:.875rem}sub{line-height:0}nav ul,.headlines,.protocol{padding-left:1.2rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;list-style:none;margin:.4rem 0 .8rem;padding:0}
.legend svg,th svg{display:inline-block;width:1.75rem;height:.75rem;margin-right:.4rem;vertical-align:-.05rem}
.legend button{all:unset;cursor:pointer}.legend [aria-pressed=true]{font-weight:600;text-decoration:underline}
.legend .hint{color:var(--soft);display:none}.scripted .legend .hint{display:block}
.dimmed [data-agent]{transition:opacity .15s}.dimmed [data-agent]:not(.on){opacity:.08}
.box{display:grid;grid-template-columns:minmax(0,1fr)}.box>.hint{display:none;margin:.2rem 0 0;
text-align:right;font-size:.8125rem;color:var(--soft)}
.more>.hint{display:block}.box>:first-child,.more::after{grid-area:1/1}.more::after{content:"";justify-self:end;width:1.2rem;
border-radius:0 8px 8px 0;background:linear-gradient(to left,var(--shade),transparent);pointer-events:none}
.row{display:flex;flex-wrap:wrap;gap:1rem;margin-bottom:1rem}.row figure{flex:1 1 26rem}
figure,.scroll{min-width:0;margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;
overflow-x:auto}figure{padding:.8rem}.pan{overflow-x:auto}figcaption{color:var(--soft);margin-top:.5rem}
svg{fill:var(--c6);overflow:visible}svg *{stroke-linejoin:round;stroke-linecap:butt}
figure svg{display:block;width:100%;height:auto;margin:0 auto}.wide svg{min-width:var(--least)}
.row .wide{flex-basis:100%}.wide figcaption{min-width:0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.36rem .7rem;text-align:right;vertical-align:top}td,tbody th,thead th{white-space:nowrap}
th:first-child,td.text{text-align:left}thead th{vertical-align:bottom}tr:nth-child(even)>*{background:var(--tint)}
th:first-child{position:sticky;left:0;background:var(--card);font-weight:600}thead th{font-weight:400}
tr:nth-child(even)>th:first-child{background:var(--tint)}
tbody{border-top:1px solid var(--line)}small{display:block;font-weight:400}
th button{all:unset;cursor:pointer}button:focus-visible,.pan:focus-visible,.scroll:focus-visible,summary:focus-visible,
a:focus-visible{outline:2px solid var(--c0);outline-offset:2px}th button::after{content:"\\2195";opacity:.45;
margin-left:.25em}th[aria-sort=descending] button::after{content:"\\2193";opacity:1}
th[aria-sort=ascending] button::after{content:"\\2191";opacity:1}
details{margin-top:1.5rem}summary{cursor:pointer;font-weight:600}dd{margin:0}code{font-size:.8125rem}
dl{display:grid;grid-template-columns:minmax(5rem,9rem) minmax(0,1fr);gap:.2rem 1rem;margin:.5rem 0 1.5rem}
dt{overflow-wrap:anywhere}
@media(max-width:40rem){figure{padding:.3rem}figcaption{padding:0 .5rem .3rem}
tbody th:first-child{min-width:8.5rem;max-width:10rem;white-space:normal;
overflow-wrap:anywhere}th svg{width:1.4rem}
dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
@media print{details:not([open])>*{display:none}.scroll,figure{break-inside:avoid}}
"""
# A click on a column's head sorts from the largest number down (names from A on), the next one the other way round, and
# the third brings the given order back. Cells without a number stay last.
# A name in a legend highlights its agent in the figures that follow. A box whose content goes on to the right says so.
SCRIPT = """
for(const table of document.querySelectorAll("table.sortable")){
const body=table.tBodies[0],given=[...body.rows],heads=[...table.tHead.rows[0].cells];
const value=(row,i)=>{const cell=row.cells[i],data=cell.querySelector("data");
return data?Number(data.value):cell.className=="text"||!i?cell.textContent.trim():null};
heads.forEach((head,i)=>{const button=document.createElement("button");button.append(...head.childNodes);
head.append(button);button.addEventListener("click",()=>{
const text=typeof value(given[0],i)=="string",first=text?"ascending":"descending",
second=text?"descending":"ascending",now=head.getAttribute("aria-sort"),
next=now==first?second:now==second?null:first;
heads.forEach(other=>other.removeAttribute("aria-sort"));if(next)head.setAttribute("aria-sort",next);
const sign=next=="ascending"?1:-1,rows=[...given];
if(next)rows.sort((a,b)=>{const x=value(a,i),y=value(b,i);
return x===null||y===null?(x===null)-(y===null):x<y?-sign:x>y?sign:0});
body.append(...rows)})})}
document.body.classList.add("scripted");
for(const legend of document.querySelectorAll(".legend")){
const row=legend.nextElementSibling,kept=new Set(),show=shown=>{row.classList.toggle("dimmed",shown.size>0);
row.querySelectorAll("[data-agent]").forEach(part=>part.classList.toggle("on",shown.has(part.dataset.agent)))};
for(const button of legend.querySelectorAll("button")){const agent=button.dataset.agent;
for(const on of ["mouseenter","focus"])button.addEventListener(on,()=>show(new Set([...kept,agent])));
for(const off of ["mouseleave","blur"])button.addEventListener(off,()=>show(kept));
button.addEventListener("click",()=>{kept.has(agent)?kept.delete(agent):kept.add(agent);
button.setAttribute("aria-pressed",kept.has(agent));show(kept)})}}
for(const box of document.querySelectorAll(".box")){const inner=box.firstElementChild,
look=()=>box.classList.toggle("more",inner.scrollLeft+inner.clientWidth<inner.scrollWidth-2);
inner.addEventListener("scroll",look);new ResizeObserver(look).observe(inner);look()}
"""
MORE = '<p class="hint" aria-hidden="true">more to the right: scroll \u2192</p>'
_WIDE = 7.0  # inches from which a figure is not readable on a small screen


def document(title: str, body: str) -> str:
    """The whole page. Its policy forbids every resource from elsewhere, and every script but this one."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="generator" content="metarl"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f"{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def note(text: str) -> str:
    """A sentence that a reader should not miss."""
    return f'<p class="note">{html.escape(text)}</p>'


def number(value: float | None, decimals: int, bound: str = "") -> str:
    """HTML of a rounded number, with full precision in the attribute `value`; `bound` is that of `number_text`."""
    text = number_text(value, decimals, bound)
    if value is None:
        return text
    return f'<data value="{"Infinity" if value == math.inf else repr(float(value))}">{text}</data>'


def cell(row: Mapping[str, Any], column: Column) -> str:
    """HTML of a cell: a text, or a number with its interval."""
    if column.decimals is None:
        return html.escape(cell_text(row, column))
    numbers = [number(row.get(name), column.decimals, bound_of(row, name)) for name in column.names()]
    if not has_interval(row, column):
        return numbers[0]
    return f'{numbers[0]} <span class="ci">[{", ".join(numbers[1:])}]</span>'


def table(name: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], marks: Sequence[str]) -> str:
    """A table of one row for each agent, which a click on a column's head sorts. `marks` stand before the names."""
    body = ""
    for row, mark in zip(rows, marks, strict=True):
        cells = "".join(_td(row, column) for column in columns[1:])
        body += f'<tr><th scope="row">{mark}{cell(row, columns[0])}</th>{cells}</tr>'
    return _box(name, f'<table class="sortable">{_head(columns)}<tbody>{body}</tbody></table>')


def grouped_table(
    name: str, columns: Sequence[Column], groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]
) -> str:
    """A table whose groups of rows have one name each, which is HTML already; the first column has these names."""
    body = ""
    for title, rows in groups:
        lines = "</tr><tr>".join("".join(_td(row, column) for column in columns[1:]) for row in rows)
        body += f'<tbody><tr><th scope="rowgroup" rowspan="{len(rows)}">{title}</th>{lines}</tr></tbody>'
    return _box(name, f"<table>{_head(columns)}{body}</table>")


def _td(row: Mapping[str, Any], column: Column) -> str:
    opening = '<td class="text">' if column.decimals is None else "<td>"
    return f"{opening}{cell(row, column)}</td>"


def _head(columns: Sequence[Column]) -> str:
    heads = "".join(f'<th scope="col">{_words(column.head)}</th>' for column in columns)
    return f"<thead><tr>{heads}</tr></thead>"


def _words(text: str) -> str:
    """HTML of a text in which R_k has its index."""
    return re.sub(r"R_(\w+)", r"R<sub>\1</sub>", html.escape(text).replace(" %", "&nbsp;%"))


def _box(name: str, content: str) -> str:
    """A box within which wide content scrolls, with the keyboard too. The script says so where there is more."""
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(name)}">{content}</div>'
    return f'<div class="box">{box}{MORE}</div>'


def mark(entry: Entry) -> str:
    """The line and marker of an agent, as in the figures."""
    return inline_svg(swatch(entry.color, entry.marker, entry.line), "").replace(
        'role="img" aria-label=""', 'aria-hidden="true"'
    )


def legend(named: Sequence[tuple[Entry, str]]) -> str:
    """Agents with their marks, which highlight them in the figures that follow; nothing without agents."""
    opening = '<li><button type="button" aria-pressed="false"'
    items = "".join(f'{opening} data-agent="{e.number}">{m}{html.escape(e.label)}</button></li>' for e, m in named)
    hint = '<li class="hint">Point at a name to highlight it; click to keep it.</li>' if len(named) > 1 else ""
    return f'<ul class="legend">{items}{hint}</ul>' if items else ""


def picture(figure: Figure, label: str, caption: str) -> str:
    """A figure with its caption, which is HTML already. A wide one scrolls within its box on a small screen."""
    words = f"<figcaption>{caption}</figcaption>" if caption else ""
    drawn = inline_svg(figure, label)
    if figure.get_figwidth() <= _WIDE:
        return f"<figure>{drawn}{words}</figure>"
    least = round(72 * figure.get_figwidth())  # a pixel for each point: letters of 8 pixels
    pan = f'<div class="pan" tabindex="0" style="--least:{least}px">{drawn}</div>'
    return f'<figure class="wide"><div class="box">{pan}{MORE}</div>{words}</figure>'


def facts(pairs: Mapping[str, str]) -> str:
    """A list of names and texts."""
    items = "".join(f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in pairs.items())
    return f"<dl>{items}</dl>"
