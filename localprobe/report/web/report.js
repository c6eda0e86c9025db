// Draws the page's figures and opens the examples behind its numbers. All that comes from a run is
// put in as text (textContent, or text that Plot puts in so), and never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { examples } = data;
  const DASHES = ["none", "6 3", "8 3 2 3", "2 3", "12 3", "4 2"];
  const SYMBOLS = ["circle", "square", "triangle", "diamond", "cross", "star"];
  const colour = (style) => `var(--c${style % 6})`;
  const tip = { fill: "var(--paper)", stroke: "var(--rule)", fontSize: 12, lineWidth: 26 };

  function element(name, text, ...children) {
    const made = document.createElement(name);
    if (text !== undefined && text !== null) made.textContent = text;
    made.append(...children);
    return made;
  }

  // -- figures ---------------------------------------------------------------------------------

  function curves(figure, width) {
    const marks = [Plot.ruleY([0], { strokeOpacity: 0.3 })];
    for (const line of figure.lines) {
      // At other ends, since they may be close to each other.
      const chance = line.name === "chance";
      const dash = chance ? "2 3" : "none";
      const place = { frameAnchor: chance ? "right" : "left", dx: chance ? -4 : 4 };
      marks.push(
        Plot.ruleY([line.y], { strokeDasharray: dash, strokeOpacity: 0.8 }),
        Plot.text([line], { y: "y", text: "name", ...place, dy: line.y > 0.95 ? 8 : -7 })
      );
    }
    const all = [];
    for (const { points, style } of figure.series) {
      for (const point of points) {
        // Where curves meet, all of them are named.
        const same = all.filter(({ x, y }) => x === point.x && y === point.y);
        for (const other of same) other.texts.push(point.text);
        all.push({ ...point, texts: [...same.map(({ text }) => text), point.text] });
      }
      marks.push(
        Plot.areaY(points, { x: "x", y1: "low", y2: "high", fill: colour(style), fillOpacity: 0.13 }),
        Plot.lineY(points, { x: "x", y: "y", stroke: colour(style), strokeDasharray: DASHES[style % 6] }),
        Plot.dot(points, { x: "x", y: "y", r: 3, symbol: SYMBOLS[style % 6], fill: colour(style) })
      );
    }
    marks.push(
      Plot.ruleX(all, Plot.pointer({ x: "x", y1: "low", y2: "high", py: "y", strokeWidth: 2 })),
      Plot.tip(all, Plot.pointer({ x: "x", y: "y", title: ({ texts }) => texts.join("\n"), ...tip }))
    );
    return Plot.plot({
      width, height: Math.max(240, Math.min(360, width * 0.55)), marginLeft: 44, marginBottom: 42,
      x: { label: figure.x, domain: [0, Math.max(figure.end, 1)], inset: 6, labelArrow: "none",
           ticks: Math.min(figure.end + 1, width / 50), tickFormat: (k) => (Number.isInteger(k) ? `${k}` : "") },
      y: { label: figure.y, domain: [0, 1], grid: true, labelArrow: "none" },
      marks,
    });
  }

  function heat(figure, width) {
    const few = figure.columns.length < 8;
    const names = (column) => figure.columns[column];
    const [low, high] = figure.range;
    const narrow = (width - 44) / figure.columns.length < 16;
    const cells = { x: "column", y: "row", fill: "value", inset: 0.5 };
    const dark = (cell) => (cell.value - low) / (high - low || 1) < 0.55;
    const marks = [Plot.cell(figure.cells, cells)];
    if (few) {
      marks.push(Plot.text(figure.cells, {
        x: "column", y: "row", text: (cell) => cell.value.toFixed(2),
        fill: (cell) => (dark(cell) ? "#ffffff" : "#000000"),
      }));
    }
    marks.push(Plot.tip(figure.cells, Plot.pointer({ x: "column", y: "row", title: "text", ...tip })));
    const scale = { scheme: "cividis", domain: [low, high], label: figure.value };
    const chart = Plot.plot({
      width: few ? Math.min(width, 120 + 150 * figure.columns.length) : width,
      height: 70 + Math.max(figure.rows.length * 16, 60) + (few ? 0 : 70),
      marginLeft: 44, marginBottom: few ? 42 : 110,
      x: { type: "band", padding: 0, domain: figure.columns.map((_, column) => column), tickFormat: names,
           label: figure.x, labelAnchor: "center", tickRotate: few ? 0 : narrow ? -90 : -60, labelArrow: "none" },
      y: { type: "band", padding: 0, domain: [...figure.rows].reverse(), label: figure.y, labelArrow: "none" },
      color: scale,
      marks,
    });
    const legend = Plot.legend({ color: scale, width: Math.min(width, 240) });
    return [legend, chart];
  }

  function intervals(figure, width) {
    const rows = figure.rows.map((row, place) => ({ ...row, place }));
    const known = rows.filter((row) => row.x !== null);
    const ranged = rows.filter((row) => row.low !== null && row.high !== null);
    const sure = rows.filter((row) => row.from !== null);
    const open = sure.filter((row) => row.to === null);
    const longest = Math.max(...rows.map((row) => row.name.length), 4);
    const beside = width > 620;
    const left = beside ? Math.min(width * 0.45, longest * 6.6 + 16) : 10;
    const label = (row) => row.name;
    const marks = [
      Plot.ruleX([0, 100], { strokeOpacity: 0.3 }),
      Plot.ruleY(ranged, { y: "place", x1: "low", x2: "high", strokeWidth: 5, strokeOpacity: 0.35,
                           stroke: (row) => colour(row.style) }),
      Plot.ruleY(sure, { y: "place", x1: "from", x2: (row) => row.to ?? 100, strokeWidth: 1.5,
                         stroke: (row) => colour(row.style) }),
      Plot.dot(open, { x: 100, y: "place", r: 4, symbol: "triangle", rotate: 90, dx: -3,
                       fill: (row) => colour(row.style) }),
      Plot.text(rows.filter((row) => row.x === null), { x: 100, y: "place", text: () => "nowhere shown", textAnchor: "end", dx: -4, dy: -8 }),
      Plot.text(rows, beside
        ? { y: "place", text: label, frameAnchor: "left", textAnchor: "end", dx: -8 }
        : { y: "place", text: label, frameAnchor: "left", textAnchor: "start", dy: -15 }),
    ];
    for (const row of known) {
      marks.push(Plot.dot([row], { x: "x", y: "place", r: 5, symbol: SYMBOLS[row.style % 6], fill: colour(row.style) }));
    }
    marks.push(Plot.tip(known, Plot.pointer({ x: "x", y: "place", title: "text", ...tip })));
    return Plot.plot({
      width, height: 60 + rows.length * (beside ? 22 : 38), marginLeft: left, marginBottom: 42,
      x: { label: figure.x, domain: [0, 100], grid: true, labelArrow: "none", labelAnchor: "center" },
      y: { type: "point", domain: rows.map((row) => row.place), axis: null, padding: 0.7 },
      marks,
    });
  }

  function legend(series) {
    const list = element("ul");
    list.className = "legend";
    for (const { name, style } of series) {
      const sample = Plot.plot({
        width: 34, height: 14, margin: 2, axis: null, x: { domain: [0, 2] }, y: { domain: [0, 2] },
        marks: [
          Plot.ruleY([1], { stroke: colour(style), strokeDasharray: DASHES[style % 6], strokeWidth: 1.5 }),
          Plot.dot([[1, 1]], { r: 3, fill: colour(style), symbol: SYMBOLS[style % 6] }),
        ],
      });
      sample.setAttribute("aria-hidden", "true");
      list.append(element("li", null, sample, name));
    }
    return list;
  }

  const KINDS = { curves, heat, intervals };

  function draw(place) {
    const figure = data.figures[Number(place.dataset.figure)];
    place.hidden = false;
    const width = Math.max(260, place.clientWidth);
    if (Number(place.dataset.width) === width) return;
    place.dataset.width = width;
    const drawn = [KINDS[figure.kind](figure, width)].flat();
    const chart = drawn[drawn.length - 1];
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", figure.label);
    chart.addEventListener("input", () => {
      chart.classList.toggle("can-open", Boolean(chart.value && examples.cells?.[chart.value.key]));
    });
    chart.addEventListener("click", () => {
      if (chart.value?.key) open(chart.value.key, chart.value.text.split("\n")[0]);
    });
    if (figure.kind === "curves") drawn.unshift(legend(figure.series));
    place.replaceChildren(...drawn);
  }

  // -- examples --------------------------------------------------------------------------------

  const dialog = document.getElementById("examples");
  const which = document.getElementById("examples-which");
  let opened = [];

  function open(key, title) {
    const rows = examples.cells?.[key];
    if (!rows) return;
    const run = key.split("/")[0];
    opened = rows.map((row) => ({ ...row, asked: examples.asked[`${run}/${row.example}`] }));
    document.getElementById("examples-title").textContent = title;
    list();
    dialog.showModal();
  }

  function list() {
    const seen = opened.filter(
      (row) => which.value === "all" || (which.value === "wrong" ? !row.right : row.changed)
    );
    document.getElementById("examples-note").textContent =
      `${seen.length} of ${opened.length} answers; ${opened.filter((row) => row.right).length} right`;
    document.getElementById("examples-list").replaceChildren(...seen.map(article));
  }

  function article(row) {
    const { asked } = row;
    const facts = element("dl");
    const fact = (name, text) => {
      if (text) facts.append(element("dt", name), element("dd", text));
    };
    const answer = (text) => (text === null ? "(numbers not finite)" : text.trim() || "(end)");
    const top = (tokens) => tokens.map(([text, share]) => `\`${text}\` ${share.toFixed(2)}`).join("   ");
    fact("right", asked.right.join(" | "));
    if (row.new !== undefined) fact("right after the swap", (row.new_right || []).join(" | "));
    fact("said", answer(row.answer));
    fact("likeliest", top(row.top));
    fact("clean model", answer(asked.clean));
    fact("likeliest, clean", top(asked.top));
    fact("scores", row.scores.map(([name, score]) => `${name} ${score}`).join(", "));
    fact("marks", (row.marks || []).join(", "));
    const words = asked.subject ? `: ${asked.subject}` : "";
    const swapped = row.new ? ` swapped for ${row.new}` : "";
    const made = element(
      "article", null,
      element("h3", `${row.right ? "✓" : "✗"} example ${row.example}${words}${swapped}`),
      facts
    );
    if (asked.prompt) {
      made.append(element("details", null, element("summary", "prompt"), element("pre", asked.prompt)));
    }
    return made;
  }

  which.addEventListener("change", list);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  for (const button of document.querySelectorAll("button[data-key]")) {
    const title = button.getAttribute("aria-label").split(":")[0];
    button.addEventListener("click", () => open(button.dataset.key, title));
  }
  const places = [...document.querySelectorAll("figure[data-figure]")];
  places.forEach(draw);
  new ResizeObserver(() => places.forEach(draw)).observe(document.body);
})();
