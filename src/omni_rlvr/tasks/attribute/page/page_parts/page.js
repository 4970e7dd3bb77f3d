"use strict";
// The clips of the page. Data become text nodes and nothing else: no string here is ever parsed as HTML.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WORDS = { video: "picture", audio: "sound", text: "question", both: "both", none: "neither" };
  const { rows, rules } = JSON.parse(document.getElementById("rows").textContent);
  if (rows.length === 0) return;

  // ---- small pieces -------------------------------------------------------------------------

  const put = (parent, ...children) => {
    parent.append(...children.filter(child => child !== null && child !== undefined));
    return parent;
  };
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
      if (value !== null && value !== undefined) node.setAttribute(name, value);
    return put(node, ...children);
  };
  const number = (value, digits = 2) =>
    value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
  const signed = (value, digits = 2) =>
    value === null || value === undefined ? "–" : (value > 0 ? "+" : "") + number(value, digits);
  const heading = text => make("h3", {}, text);
  const soft = (...children) => make("p", { class: "soft" }, ...children);
  const verdict = right => make("span", { class: `mark ${right ? "right" : "wrong"}` },
    right ? " ✓" : " ✗", make("span", { class: "unseen" }, right ? " right" : " wrong"));

  // ---- the table ----------------------------------------------------------------------------

  const COLUMNS = [
    { key: "clip", name: "Clip", left: true },
    { key: "run", name: "Run", left: true },
    { key: "label", name: "Gold", left: true },
    { key: "predicted", name: "Label list says", left: true,
      cell: row => [row.predicted, verdict(row.right)] },
    { key: "confidence", name: "Probability", cell: row => [number(row.confidence)] },
    { key: "phi_video", name: "φ picture", cell: row => [signed(row.phi_video)] },
    { key: "phi_audio", name: "φ sound", cell: row => [signed(row.phi_audio)] },
    { key: "interaction", name: "Interaction", cell: row => [signed(row.interaction)] },
    { key: "conflict", name: "Conflict", cell: row => [number(row.conflict)] },
    { key: "rules", name: "Chosen as", left: true,
      cell: row => [make("div", { class: "rules" }, row.rules.join(", "))] },
  ].filter(column => column.key !== "run" || new Set(rows.map(row => row.run)).size > 1);

  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const lines = rows.map((row, i) => makeLine(row, i));
  let order = { key: null, up: true };

  // A name may go on in the next line behind a separator, and nowhere else.
  function named(text) {
    return text.split(/(?<=[\/_\-\s])/).flatMap((part, i) => i ? [make("wbr"), part] : [part]);
  }

  function makeLine(row, i) {
    const thumb = row.thumb && make("img",
      { class: "thumb", src: row.thumb, alt: "", width: 40, height: 40, loading: "lazy", decoding: "async" });
    const button = make("button", { type: "button", class: "open", "aria-expanded": "false" },
      thumb || make("span", { class: "thumb" }), make("span", {}, ...named(row.clip)));
    const cells = COLUMNS.slice(1).map(column => make("td",
      { class: `col-${column.key}${column.left ? " left" : ""}` },
      ...(column.cell ? column.cell(row) : [row[column.key]])));
    const line = make("tr", { class: "line" }, make("th", { scope: "row" }, button), ...cells);
    const entry = { row, i, line, button, detail: null };
    line.addEventListener("click", event => {
      if (event.target.closest("a, input") || String(getSelection())) return;
      toggle(entry);
    });
    button.addEventListener("keydown", event => onKey(event, entry));
    return entry;
  }

  function onKey(event, entry) {
    const seen = lines.filter(other => !other.line.hidden)
      .sort((a, b) => a.line.rowIndex - b.line.rowIndex);
    const at = seen.indexOf(entry);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: seen.length - 1 }[event.key];
    if (to !== undefined && seen[to]) {
      seen[to].button.focus();
      event.preventDefault();
    }
  }

  function toggle(entry) {
    if (entry.detail) {
      entry.close();
      entry.detail.remove();
      entry.detail = null;
    } else {
      const { card, close } = makeCard(JSON.parse(document.getElementById(`card-${entry.i}`).textContent), entry.row);
      entry.close = close;
      entry.detail = make("tr", { class: "detail", id: `detail-${entry.i}` },
        make("td", { colspan: COLUMNS.length }, card));
      entry.detail.addEventListener("keydown", event => {
        if (event.key !== "Escape") return;
        toggle(entry);
        entry.button.focus();
      });
      entry.line.after(entry.detail);
      entry.button.setAttribute("aria-controls", entry.detail.id);
    }
    entry.button.setAttribute("aria-expanded", String(entry.detail !== null));
  }

  function sort(column, head) {
    const up = order.key === column.key ? !order.up : Boolean(column.left);
    order = { key: column.key, up };
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = entry => (column.key === "rules" ? rules.indexOf(entry.row.rules[0]) : entry.row[column.key]);
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null); // what has no value comes last
      const by = typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
      return (up ? by : -by) || a.i - b.i;
    };
    for (const entry of [...lines].sort(compare)) put(body, entry.line, entry.detail);
  }

  for (const column of COLUMNS) {
    const button = make("button", { type: "button" }, column.name);
    const head = make("th", { scope: "col", class: `col-${column.key}${column.left ? " left" : ""}` }, button);
    button.addEventListener("click", () => sort(column, head));
    table.tHead.rows[0].append(head);
  }

  // ---- filters ------------------------------------------------------------------------------

  const tools = document.querySelector(".tools");
  const [find, run, label, right, rule] = ["find", "run", "label", "right", "rule"].map(id => document.getElementById(id));
  const choices = (select, values) => put(select, ...values.map(value => make("option", { value }, value)));
  const runs = [...new Set(rows.map(row => row.run))];
  choices(run, runs);
  choices(label, [...new Set(rows.map(row => row.label))].sort());
  choices(rule, rules);
  document.getElementById("run-tool").hidden = runs.length < 2;

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, line, detail } of lines) {
      const text = [row.clip, row.label, row.predicted, row.text].join("\n").toLowerCase();
      const keep = words.every(word => text.includes(word))
        && (!run.value || row.run === run.value)
        && (!label.value || row.label === label.value)
        && (!right.value || String(row.right) === right.value)
        && (!rule.value || row.rules.includes(rule.value));
      line.hidden = !keep;
      if (detail) detail.hidden = !keep;
      shown += keep;
    }
    document.getElementById("status").textContent = `${shown} of ${rows.length} clips`;
  }
  tools.addEventListener("input", filter);
  tools.addEventListener("submit", event => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(filter));

  // ---- a card -------------------------------------------------------------------------------

  function makeCard(data, row) {
    const closing = [];
    const card = make("div", { class: "card", role: "group", "aria-label": `Clip ${row.clip}` },
      mediaPart(data, closing),
      make("div", { class: "facts" }, reasoningPart(data), labelsPart(data, row), gamesPart(data)),
      samplesPart(data));
    return { card, close: () => closing.forEach(end => end()) };
  }

  function mediaPart(data, closing) {
    const part = make("section", {}, heading("Clip"));
    const { media } = data;
    if (media.error) return put(part, make("p", { class: "error" }, `The file cannot be shown: ${media.error}`));
    const bytes = Uint8Array.from(atob(media.clip.data), char => char.charCodeAt(0));
    const address = URL.createObjectURL(new Blob([bytes], { type: media.clip.mime }));
    closing.push(() => URL.revokeObjectURL(address));
    const player = make(media.film ? "video" : "audio",
      { controls: "", preload: "metadata", src: address, playsinline: "", "aria-label": "The clip" });
    put(part, player);
    if (media.clip.cut_s) put(part, soft(`Only its first ${media.clip.cut_s} s can be played here.`));
    if (media.film) {
      put(part, make("img", { class: "film", src: media.film.src, alt: "Frames of the clip, in order" }),
        make("ol", { class: "times", "aria-label": "Times of the frames" },
          ...media.film.times_s.map(time => make("li", {}, `${time.toFixed(1)} s`))));
    } else put(part, soft("This clip has no picture."));
    put(part, media.sound ? soundPart(media.sound, player) : soft("This clip has no sound track."));
    return put(part, soft(data.file));
  }

  function soundPart(sound, player) {
    const { low, high } = sound;
    const wave = document.createElementNS(SVG, "svg");
    wave.setAttribute("class", "wave");
    wave.setAttribute("viewBox", `0 -105 ${high.length} 210`);
    wave.setAttribute("preserveAspectRatio", "none");
    wave.setAttribute("role", "img");
    wave.setAttribute("aria-label", "Waveform");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", high.map((h, i) => `M${i} ${-h - 1}h.8v${h - low[i] + 2}h-.8z`).join(""));
    wave.append(path);
    const head = make("div", { class: "head" });
    const marks = sound.marks.map(mark => {
      const node = make("span", { class: "hz" }, mark.hz < 1000 ? `${mark.hz} Hz` : `${mark.hz / 1000} kHz`);
      node.style.bottom = `calc(6.5rem * ${mark.height})`;
      return node;
    });
    const box = make("div", { class: "sound" }, wave,
      make("img", { class: "mel", src: sound.mel, alt: "Mel spectrogram, low tones at the bottom" }), ...marks, head);
    const follow = () => {
      head.style.left = `${100 * Math.min(1, player.currentTime / sound.seconds)}%`;
      if (!player.paused && head.isConnected) requestAnimationFrame(follow);
    };
    for (const event of ["play", "seeked", "timeupdate"]) player.addEventListener(event, follow);
    follow();
    box.addEventListener("click", event => {
      const area = box.getBoundingClientRect();
      player.currentTime = sound.seconds * (event.clientX - area.left) / area.width;
    });
    return make("div", {}, box, make("div", { class: "ends" }, make("span", {}, "0 s"),
      make("span", {}, `peak ${number(sound.peak_db, 1)} dB`), make("span", {}, `${sound.seconds.toFixed(1)} s`)));
  }

  const said = segments => make("pre", {}, ...segments.map(([text, modality, counted]) =>
    modality ? make("span", { class: modality + (counted ? " counted" : "") }, text) : text));

  function reasoningPart(data) {
    const part = make("section", {}, heading("Reasoning"), soft(data.question));
    const text = said(data.reasoning);
    text.classList.add("said");
    put(part, text, make("div", { class: "key" },
      make("span", { class: "visual" }, "speaks of what is seen"),
      make("span", { class: "vocal" }, "speaks of what is heard")));
    const { visual, vocal, agrees } = data.lean;
    const leans = agrees === null ? "" : agrees
      ? " It leans to the modality with the larger Shapley value."
      : " It leans to the other modality than the Shapley values do.";
    put(part, soft(`${visual} visual and ${vocal} vocal words.${leans}`));
    put(part, soft(data.answer === null
      ? "Its answer, generated greedily, is not in the label list." : `Its answer, generated greedily: ${data.answer}.`));
    if (data.num_claims !== null) {
      const wrong = data.false_claims.length ? `: ${data.false_claims.join(", ")}.` : ".";
      put(part, soft(`${data.false_claims.length} of ${data.num_claims} claims about the clip are false${wrong}`));
    }
    return part;
  }

  function labelsPart(data, row) {
    const names = data.subsets.map(subset => subset.name);
    const word = name => {
      const bare = name.replace("no_text_", "");
      const shown = WORDS[bare];
      return name === bare ? (names.length > 4 ? `${shown} + question` : shown) : shown;
    };
    const tops = data.subsets.map(({ p }) => data.labels.reduce((a, b) => (p[b] > p[a] ? b : a)));
    const lines = data.labels.map(label => make("tr", { class: label === row.label ? "gold" : null },
      make("th", { scope: "row" }, label,
        label === row.label ? make("span", { class: "tag" }, "gold") : null),
      ...data.subsets.map(({ p }, i) => {
        const bar = make("span", { class: "bar" });
        bar.style.width = `calc((100% - 1rem) * ${p[label] || 0})`;
        const text = p[label] === null ? "–" : (100 * p[label]).toFixed(1);
        return make("td", { class: p[label] !== null && tops[i] === label ? "top" : null }, bar, text);
      })));
    return make("section", {}, heading("Label probabilities, by what is shown"),
      make("div", { class: "wide" }, make("table", { class: "probs" },
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "%"),
          ...names.map(name => make("th", { scope: "col" }, word(name))))),
        make("tbody", {}, ...lines))),
      soft("The most probable label of each column is bold."));
  }

  function gamesPart(data) {
    const bars = data.games.flatMap(game => [...Object.values(game.phi), game.interaction]);
    const most = Math.max(...bars.map(value => Math.abs(value || 0)), 1e-9);
    const part = make("section", {}, heading("Shapley values"));
    for (const game of data.games) {
      const lines = [...Object.entries(game.phi), ["interaction", game.interaction]];
      const sum = Object.entries(game.phi).map(([name, value]) => `${WORDS[name]} ${signed(value)}`).join(", ");
      put(part, make("p", {}, "For ", make("b", {}, game.label), game.gold ? " (gold)" : " (most probable)"),
        make("div", { class: "game-box" }, ...lines.map(([name, value]) => gameLine(name, value, most))),
        make("p", { class: "soft sum" }, `${number(game.none)} without any, ${sum}: ${number(game.both)} with all.`));
    }
    return put(part, soft(data.has_video && data.has_audio
      ? "Interaction above zero: the two say more together than apart; below: they repeat each other."
      : "The clip has one modality only."));
  }

  function gameLine(name, value, most) {
    const bar = make("i");
    const share = 50 * Math.abs(value || 0) / most;
    bar.style.width = `${share}%`;
    bar.style.left = `${value < 0 ? 50 - share : 50}%`;
    return make("div", { class: `game ${name}` }, make("span", {}, WORDS[name] || name),
      make("span", { class: "track" }, bar), make("b", {}, signed(value)));
  }

  function samplesPart(data) {
    if (data.completions.length === 0) return null;
    const terms = Object.keys(data.completions[0].terms);
    const names = ["#", "reward", ...terms, "advantage"];
    const lines = data.completions.map((sample, i) => {
      const sign = sample.advantage > 0 ? "plus" : sample.advantage < 0 ? "minus" : null;
      const cells = [[number(sample.reward)], ...terms.map(term => [number(sample.terms[term])]),
        [signed(sample.advantage), sign]];
      return make("tr", {}, make("th", { scope: "row" }, String(i + 1)),
        ...cells.map(([text, mark], k) => make("td", { class: mark, "data-name": names[k + 1] }, text)),
        make("td", { class: "left" }, said(sample.said)));
    });
    return make("section", { class: "across" }, heading(`${lines.length} sampled completions`),
      make("table", { class: "samples" },
        make("thead", {}, make("tr", {}, ...names.map(name => make("th", { scope: "col" }, name)),
          make("th", { scope: "col", class: "left" }, "completion"))),
        make("tbody", {}, ...lines)));
  }

  put(body, ...lines.map(entry => entry.line));
  filter();
  tools.hidden = table.hidden = false;
})();
