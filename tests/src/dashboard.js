// A dashboard of Grafana's as a page, with what Prometheus answers to each of its panels' expressions. Grafana itself comes from
// none of the registries that this project takes things from; its panels' places, titles, units, colours and words are the file's.
//
//     node dashboard.js GRAFANA.json http://PROMETHEUS SECONDS PAGE.html
//
// Draws the last SECONDS, and prints as JSON how many series each panel has.
"use strict";

const fs = require("fs");
const echarts = require("echarts");

const COLUMN = 36, ROW = 30, GAP = 6;
const COLOURS = { green: "#299c46", orange: "#e0752d", red: "#c4162a", blue: "#3274d9" };
const LINES = ["#3274d9", "#299c46", "#e0752d", "#8f3bb8", "#c4162a", "#0a767a", "#a0522d", "#666"];

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function shown(value, { unit, mappings = [], decimals }) {
    for (const mapping of mappings) {
        const known = mapping.options?.[String(value)];
        if (known) return known.text;
    }
    if (unit === "percentunit") return `${(value * 100).toFixed(decimals ?? 1)} %`;
    const number = Math.abs(value) >= 100 ? value.toFixed(decimals ?? 0) : String(+value.toFixed(decimals ?? 2));
    const units = { s: " s", d: " d", ops: "/s", short: "" };
    return number + (units[unit] ?? "");
}

function colour(value, { thresholds }) {
    const steps = thresholds?.steps ?? [];
    const reached = steps.filter((step) => step.value === null || value >= step.value).pop();
    return COLOURS[reached?.color] ?? COLOURS.blue;
}

function legend(format, labels) {
    if (!format) return Object.entries(labels).filter(([name]) => name !== "__name__").map(([, value]) => value).join(" ");
    return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? "");
}

class Prometheus {
    constructor(address, seconds) {
        this.address = address;
        this.seconds = seconds;
        this.now = Date.now() / 1000;
        this.step = Math.max(1, Math.ceil(seconds / 120));
    }

    async ask(target) {
        const expression = target.expr.replace(/\$__rate_interval/g, "15s").replace(/\$(job|instance|database)/g, ".*");
        const parameters = new URLSearchParams({ query: expression });
        const isRange = target.range !== false;
        if (isRange) {
            for (const [name, value] of [["start", this.now - this.seconds], ["end", this.now], ["step", this.step]]) parameters.set(name, value);
        }
        const answer = await fetch(`${this.address}/api/v1/query${isRange ? "_range" : ""}?${parameters}`);
        const { status, error, data } = await answer.json();
        if (status !== "success") throw new Error(`${expression}: ${error}`);
        return data.result.map((series) => ({
            name: legend(target.legendFormat, series.metric),
            labels: series.metric,
            points: (series.values ?? [series.value]).map(([at, value]) => [at * 1000, Number(value)]),
        }));
    }
}

const last = (series) => series.points[series.points.length - 1][1];

function chart(width, height, option) {
    const made = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
    made.setOption({ animation: false, color: LINES, textStyle: { fontFamily: "sans-serif" }, ...option });
    const svg = made.renderToSVGString();
    made.dispose();
    return svg;
}

const draw = {
    stat(all, fields) {
        const each = all.map((series) => {
            const value = last(series);
            return `<div class="stat" style="background:${colour(value, fields)}"><b>${escape(shown(value, fields))}</b> ${all.length > 1 ? escape(series.name) : ""}</div>`;
        });
        return `<div class="stats">${each.join("")}</div>`;
    },
    timeseries(all, fields, width, height) {
        // A legend's entry is its text and a line before it.
        const names = all.reduce((sum, series) => sum + series.name.length * 6 + 30, 0);
        return chart(width, height, {
            grid: { left: 58, right: 14, top: 12, bottom: 22 + 18 * Math.ceil(names / (width - 12)) },
            legend: { bottom: 0, left: 6, itemWidth: 14, itemHeight: 8, textStyle: { fontSize: 10 }, data: all.slice(0, 12).map((series) => series.name) },
            xAxis: { type: "time", axisLabel: { fontSize: 10, hideOverlap: true, formatter: "{HH}:{mm}:{ss}" } },
            yAxis: { type: "value", axisLabel: { fontSize: 10, formatter: (value) => shown(value, fields) } },
            series: all.map((series) => ({ type: "line", name: series.name, data: series.points, showSymbol: false, lineStyle: { width: 1.5 } })),
        });
    },
    bargauge(all, fields, width, height) {
        const rows = all.slice(0, 8);
        return chart(width, height, {
            grid: { left: 110, right: 60, top: 8, bottom: 8 },
            xAxis: { type: "value", show: false, min: Math.min(fields.min ?? 0, ...rows.map(last)), max: fields.max },
            yAxis: { type: "category", inverse: true, data: rows.map((series) => series.name), axisLabel: { width: 100, overflow: "truncate", fontSize: 11 } },
            series: [{
                type: "bar", barMaxWidth: 26,
                label: { show: true, position: "right", formatter: ({ value }) => shown(value, fields) },
                data: rows.map((series) => ({ value: last(series), itemStyle: { color: colour(last(series), fields) } })),
            }],
        });
    },
    table(all, fields, width, height, panel) {
        const hidden = Object.assign({}, ...(panel.transformations ?? []).map((step) => step.options?.excludeByName ?? {}));
        const columns = [...new Set(all.flatMap((series) => Object.keys(series.labels)))].filter((name) => !hidden[name]);
        const head = [...columns, "Value"].map((name) => `<th>${escape(name)}</th>`).join("");
        const body = all.map((series) => {
            const cells = [...columns.map((name) => series.labels[name] ?? ""), shown(last(series), fields)];
            return `<tr>${cells.map((cell) => `<td>${escape(cell)}</td>`).join("")}</tr>`;
        });
        return `<table><tr>${head}</tr>${body.join("")}</table>`;
    },
};

async function main([file, address, seconds, page]) {
    const dashboard = JSON.parse(fs.readFileSync(file, "utf8"));
    const prometheus = new Prometheus(address, Number(seconds));
    const told = {};
    let body = "", bottom = 0;
    for (const panel of dashboard.panels) {
        const { x, y, w, h } = panel.gridPos;
        bottom = Math.max(bottom, (y + h) * ROW);
        const place = `left:${x * COLUMN}px;top:${y * ROW}px;width:${w * COLUMN - GAP}px;height:${h * ROW - GAP}px`;
        if (panel.type === "row") {
            body += `<h2 style="${place}">${escape(panel.title)}</h2>`;
            continue;
        }
        const all = (await Promise.all(panel.targets.map((target) => prometheus.ask(target)))).flat();
        told[panel.title] = all.length;
        const fields = panel.fieldConfig.defaults;
        const inside = all.length ? draw[panel.type](all, fields, w * COLUMN - GAP - 2, h * ROW - GAP - 26, panel) : '<p class="none">No data</p>';
        body += `<section style="${place}"><h3>${escape(panel.title)}</h3>${inside}</section>`;
    }
    fs.writeFileSync(page, `<!doctype html><meta charset="utf-8"><title>${escape(dashboard.title)}</title><style>
body { margin: 0; background: #f4f5f5; font: 12px sans-serif; color: #222 } main { position: relative; width: ${24 * COLUMN}px; height: ${bottom}px; margin: 8px }
section, h2 { position: absolute; box-sizing: border-box; margin: 0 } section { background: #fff; border: 1px solid #ddd; overflow: hidden }
h2 { font-size: 14px; line-height: 26px } h3 { margin: 0; padding: 5px 8px; font-size: 12px; line-height: 16px } .none { text-align: center; color: #777 }
.stats { display: flex; gap: 2px; height: calc(100% - 26px) } .stat { flex: 1; color: #fff; text-align: center; padding-top: 14px } .stat b { display: block; font-size: 24px }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: 4px 8px; border-top: 1px solid #eee }
</style><main id="dashboard">${body}</main><div id="end"></div>`);
    console.log(JSON.stringify(told));
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error.stack);
    process.exit(1);
});
