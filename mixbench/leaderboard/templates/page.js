(DataTable) => {
  "use strict";
  const ALPHABET = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)).filter((digit) => !"\"\\<".includes(digit));
  const VALUE = new Map(ALPHABET.map((digit, value) => [digit, value]));
  const DIGITS = 3;
  const Z95 = 1.959963984540054;
  const verdicts = JSON.parse(document.getElementById("verdicts").textContent);
  const each = (root, selector, act) => root.querySelectorAll(selector).forEach(act);

  // All text of the page comes from records that strangers may have written: it is only ever set as text.
  const element = (tag, text = "", attributes = {}) => {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const fill = (select, texts) => select.replaceChildren(...texts.map((text, i) => element("option", text, { value: i })));

  function activateTable(board) {
    const form = board.querySelector(".filters");
    const table = board.querySelector("table.results");
    const shown = form.querySelector("[data-shown]");
    const selects = [...form.querySelectorAll("select")];
    const data = new DataTable(table, {
      paging: false, info: false, autoWidth: false, order: [],
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      // A number is first looked at from its best end; ranks and words from the first.
      columnDefs: [{ targets: "number", orderSequence: ["desc", "asc"] }],
    });
    data.search.fixed("filters", (text, row, index) => {
      const node = data.row(index).node();
      return selects.every((select) => !select.value || node.dataset[select.dataset.filter] === select.value);
    });
    const apply = () => {
      const setting = form.querySelector('[data-filter="setting"]').value;
      table.classList.toggle("one-setting", setting !== "");
      data.search(form.querySelector("[data-search]").value).draw();
      const count = data.rows({ search: "applied" }).count();
      shown.textContent = `${count} ${count === 1 ? "row" : "rows"}`;
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    apply();
  }

  function activateCurves(board) {
    const section = board.querySelector(".curves");
    if (!section) return;
    const chosen = section.querySelector("[data-curve]");
    const hidden = new Set();
    const draw = () => {
      each(section, "figure.curve", (figure) => { figure.hidden = figure.dataset.line !== chosen.value; });
      each(section, "g[data-model], tr[data-model]", (mark) => mark.toggleAttribute("hidden", hidden.has(mark.dataset.model)));
      each(section, "g[data-model]", (mark) => { mark.style.display = hidden.has(mark.dataset.model) ? "none" : ""; });
      each(section, ".legend button", (button) => button.setAttribute("aria-pressed", !hidden.has(button.dataset.model)));
    };
    each(section, ".legend button", (button) => button.addEventListener("click", () => {
      const key = button.dataset.model;
      if (!hidden.delete(key)) hidden.add(key);
      draw();
    }));
    chosen.addEventListener("input", draw);
    section.querySelector("[data-all]").addEventListener("click", () => { hidden.clear(); draw(); });
    section.querySelector("[data-none]").addEventListener("click", () => {
      each(section, ".legend button", (button) => hidden.add(button.dataset.model));
      draw();
    });
    section.querySelector("form").hidden = false;
    draw();
  }

  // The exact two-sided McNemar test: under no difference the discordant examples are fair coin flips.
  function mcnemar(onlyA, onlyB) {
    const n = onlyA + onlyB;
    let term = -n * Math.LN2;
    let tail = 0;
    for (let k = 0; k <= Math.min(onlyA, onlyB); k++) {
      tail += Math.exp(term);
      term += Math.log((n - k) / (k + 1));
    }
    return Math.min(1, 2 * tail);
  }

  // Bonett and Price, Journal of Educational and Behavioral Statistics 37:479 (2012): adjusted Wald, for paired rates.
  function differenceInterval(onlyA, onlyB, n) {
    const a = (onlyA + 1) / (n + 2);
    const b = (onlyB + 1) / (n + 2);
    const half = Z95 * Math.sqrt((a + b - (a - b) ** 2) / (n + 2));
    return [Math.max(-1, a - b - half), Math.min(1, a - b + half)];
  }

  // What cost a model the example at a radius: null where it is robust there.
  function lostTo(code, radius, stages) {
    if (code === 0) return null;
    if (code === 1) return "misclassified without attack";
    const brokenAt = Math.floor((code - 2) / stages.length);
    return brokenAt > radius ? null : `broken by ${stages[(code - 2) % stages.length]}`;
  }

  // Every three digits are a number that holds the codes of as many images as fit, the first lowest.
  function unpack(line, model) {
    const text = line.fates[model];
    const nCodes = 2 + line.stages.length * line.settings.length;
    let size = 1;
    while (nCodes ** (size + 1) <= ALPHABET.length ** DIGITS) size++;
    const codes = [];
    for (let start = 0; start < text.length; start += DIGITS) {
      let group = 0;
      for (let i = DIGITS - 1; i >= 0; i--) group = group * ALPHABET.length + VALUE.get(text[start + i]);
      for (let i = 0; i < size; i++, group = Math.floor(group / nCodes)) codes.push(group % nCodes);
    }
    return codes;
  }

  function compare(line, radius, a, b) {
    const codesA = unpack(line, a);
    const codesB = unpack(line, b);
    const counts = { both: 0, onlyA: 0, onlyB: 0, neither: 0 };
    const losses = new Map([["misclassified without attack", [0, 0]], ...line.stages.map((stage) => [`broken by ${stage}`, [0, 0]])]);
    for (let i = 0; i < line.n; i++) {
      const lostA = lostTo(codesA[i], radius, line.stages);
      const lostB = lostTo(codesB[i], radius, line.stages);
      if (lostA === null && lostB === null) counts.both++;
      else if (lostA === null) { counts.onlyA++; losses.get(lostB)[1]++; }
      else if (lostB === null) { counts.onlyB++; losses.get(lostA)[0]++; }
      else counts.neither++;
    }
    return { counts, losses };
  }

  const whole = (count) => count.toLocaleString("en");
  const points = (rate) => `${rate < 0 ? "−" : "+"}${Math.abs(100 * rate).toFixed(1)}`;

  function showComparison(into, line, radius, [a, b], names) {
    if (a === b || !(a in line.fates) || !(b in line.fates)) {
      into.replaceChildren(element("p", a === b ? "Choose two different models." : "One of the two was not evaluated under this.", { class: "note" }));
      return;
    }
    const { counts, losses } = compare(line, radius, a, b);
    const [low, high] = differenceInterval(counts.onlyA, counts.onlyB, line.n);
    const p = mcnemar(counts.onlyA, counts.onlyB);
    const verdict = p >= 0.05 ? "The data does not tell them apart" : `${counts.onlyA > counts.onlyB ? "A" : "B"} is more robust`;
    const pText = p < 0.0001 ? "below 0.0001" : p.toPrecision(2);
    const bar = element("div", "", { class: "paired", role: "img", "aria-label": `${counts.both} images survive for both, ${counts.onlyA} for A alone, ${counts.onlyB} for B alone, ${counts.neither} for neither` });
    const table = element("table", "", { class: "grid" });
    const row = (head, ...cells) => {
      const made = element("tr");
      made.append(element("th", head, { scope: "row" }), ...cells.map((cell) => element("td", cell, { class: "number" })));
      return made;
    };
    const head = element("tr");
    head.append(...["", "A", "B"].map((text) => element("th", text, { scope: "col", class: text ? "number" : "" })));
    table.append(
      head,
      row("robust accuracy, %", ((100 * (counts.both + counts.onlyA)) / line.n).toFixed(1), ((100 * (counts.both + counts.onlyB)) / line.n).toFixed(1)),
      row("survives for this model alone", counts.onlyA, counts.onlyB),
      ...[...losses].map(([what, [lostA, lostB]]) => row(`lost where the other survives: ${what}`, lostA, lostB)),
    );
    for (const [name, count] of [["both", counts.both], ["only-a", counts.onlyA], ["only-b", counts.onlyB], ["neither", counts.neither]]) {
      const part = element("i", "", { class: name });
      part.style.width = `${(100 * count) / line.n}%`;
      bar.append(part);
    }
    const scroll = element("div", "", { class: "scroll" });
    scroll.append(table);
    into.replaceChildren(
      element("p", `${verdict}: A less B is ${points((counts.onlyA - counts.onlyB) / line.n)} points (95% interval ${points(low)} to ${points(high)}), McNemar p ${pText}.`, { class: "verdict" }),
      bar,
      element("p", `Of ${whole(line.n)} images ${whole(counts.both)} survive for both, ${whole(counts.onlyA)} for A alone, ${whole(counts.onlyB)} for B alone and ${whole(counts.neither)} for neither.`, { class: "note" }),
      scroll,
      element("p", `One pair, not adjusted for others. The interval is Bonett and Price's; mixbench compare gives the exact one. A is ${names[a]}, B ${names[b]}.`, { class: "note" }),
    );
  }

  function activateComparison(board) {
    const section = board.querySelector(".compare");
    const { models, lines } = verdicts[board.dataset.board];
    const under = lines.flatMap((line, i) => line.settings.map((setting, radius) => ({ line: i, radius, setting, text: `${line.attack}, ${setting}` }))).reverse();
    const [a, b] = section.querySelectorAll("[data-side]");
    const choice = section.querySelector("[data-under]");
    if (models.length < 2) return;
    fill(a, models);
    fill(b, models);
    fill(choice, under.map((option) => option.text));
    const headline = under.findIndex((option) => option.setting === board.dataset.headline);
    choice.value = Math.max(headline, 0);
    b.value = 1;
    const show = () => {
      const { line, radius } = under[Number(choice.value)];
      showComparison(section.querySelector("[data-comparison]"), lines[line], radius, [a.value, b.value], models);
    };
    section.addEventListener("input", show);
    section.hidden = false;
    show();
  }

  each(document, ".board[data-board]", (board) => {
    activateTable(board);
    activateCurves(board);
    activateComparison(board);
  });
  document.documentElement.dataset.ready = "true";
};
