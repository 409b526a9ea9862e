// Asks for the run's numbers every few seconds and draws them. Texts become text nodes, never markup.
const EVERY = 3000; // ms
const WIDTH = 390, HEIGHT = 230, LEFT = 52, RIGHT = 12, TOP = 26, BOTTOM = 26; // px of a chart's drawing
const DASH = 2; // px that a length of 1 is in a pattern of dashes
const MARKED = 15; // points of a line that are marked one by one

const get = (id) => document.getElementById(id);
const element = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const shape = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

function fill(one, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  one.append(...children);
  return one;
}

const written = (value) => Number(value.toPrecision(value >= 1e4 ? 6 : 4)).toLocaleString("en", { maximumFractionDigits: 6 });
const color = (line) => `var(--line-${(line.color % 6) + 1})`;

function stroke(one, line) {
  one.style.stroke = color(line);
  if (line.dashes.length) one.style.strokeDasharray = line.dashes.map((length) => DASH * length).join(" ");
  return one;
}

// Round numbers within a range, at most this many.
function ticks(low, high, most) {
  const size = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = [1, 2, 2.5, 5, 10, 20].map((times) => times * size).find((one) => (high - low) / one <= most);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step);
  return found;
}

function ranges(lines) {
  const points = lines.flatMap((line) => line.points), steps = points.map((one) => one[0]), values = points.map((one) => one[1]);
  const least = (all) => all.reduce((a, b) => Math.min(a, b)), most = (all) => all.reduce((a, b) => Math.max(a, b));
  const across = least(steps) < most(steps) ? [least(steps), most(steps)] : [0, Math.max(1, steps[0])];
  const low = least(values), high = most(values), margin = 0.05 * (high - low);
  const flat = low >= 0 && high - low <= 0.05 * high; // or next to nothing would look like something
  return [across, flat ? [0, 1.2 * high || 1] : [low - (margin || Math.abs(low) || 1), high + (margin || Math.abs(low) || 1)]];
}

function chart(one, burnIn) {
  const lines = one.lines.map((line) => ({ ...line, points: line.points.filter((point) => point[1] !== null) }));
  const drawn = lines.filter((line) => line.points.length);
  const read = element("span", { class: "read" });
  const card = element("div", { class: "card" }, element("h3", {}, one.title, " ", read));
  if (!drawn.length) return card;
  const [across, up] = ranges(drawn);
  const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * (step - across[0])) / (across[1] - across[0]);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (value - up[0])) / (up[1] - up[0]);
  const alt = `${one.title}: ${drawn.map((line) => line.name).join(", ")}, over training steps`;
  const svg = shape("svg", { class: "chart", role: "img", "aria-label": alt, viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
  svg.append(shape("text", { x: LEFT, y: 12 }, one.ylabel));
  for (const value of ticks(...up, 5)) {
    svg.append(shape("line", { class: "rule", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, written(value)));
  }
  svg.append(shape("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
  for (const step of ticks(...across, 4)) {
    const anchor = x(step) > WIDTH - RIGHT - 20 ? "end" : "middle";
    svg.append(shape("text", { x: x(step), y: HEIGHT - 8, "text-anchor": anchor }, written(step)));
  }
  if (burnIn !== null && across[0] <= burnIn && burnIn < across[1]) {
    const right = x(burnIn) > WIDTH / 2;
    svg.append(shape("line", { class: "mark", x1: x(burnIn), x2: x(burnIn), y1: TOP - 4, y2: HEIGHT - BOTTOM }));
    svg.append(shape("text", { x: x(burnIn) + (right ? -4 : 4), y: TOP + 6, "text-anchor": right ? "end" : "start" }, "burn-in ends"));
  }
  for (const line of drawn) {
    const path = line.points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    svg.append(stroke(shape("path", { d: path }), line));
    for (const [step, value] of line.points.length <= MARKED ? line.points : []) {
      svg.append(shape("circle", { cx: x(step), cy: y(value), r: 3 }));
      svg.lastChild.style.fill = color(line);
    }
  }
  card.append(svg);
  const values = legend(card, drawn);
  readable(svg, drawn, across, read, values, x);
  return card;
}

// Names of the lines with a place for their values; a line that is alone has its value beside the title.
function legend(card, lines) {
  if (lines.length < 2) return [];
  const entries = lines.map((line) => {
    const key = shape("svg", { width: 30, height: 8, "aria-hidden": "true" });
    key.append(stroke(shape("line", { "stroke-width": 2, x1: 1, x2: 29, y1: 4, y2: 4 }), line));
    return element("span", {}, key, ` ${line.name} `, element("span", { class: "value" }));
  });
  card.append(element("p", { class: "legend" }, ...entries));
  return entries.map((entry) => entry.lastChild);
}

// Shows the values at the step that is pointed at.
function readable(svg, lines, across, read, values, x) {
  const mark = shape("line", { class: "mark", y1: TOP - 4, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(mark);
  const nearest = (points, step) => points.reduce((best, one) => (Math.abs(one[0] - step) < Math.abs(best[0] - step) ? one : best));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
    const step = across[0] + Math.min(1, Math.max(0, share)) * (across[1] - across[0]);
    const found = lines.map((line) => nearest(line.points, step));
    const shown = nearest(found, step)[0];
    fill(mark, { x1: x(shown), x2: x(shown), visibility: "visible" }, []);
    read.textContent = values.length ? `step ${written(shown)}` : `step ${written(shown)}: ${written(found[0][1])}`;
    values.forEach((one, at) => (one.textContent = written(found[at][1])));
  });
  svg.addEventListener("pointerleave", () => {
    mark.setAttribute("visibility", "hidden");
    for (const one of [read, ...values]) one.textContent = "";
  });
}

function previews(pictures) {
  const steps = pictures.filter((address) => /\/step_\d+\./.test(address));
  const figure = get("teacher"), image = figure.querySelector("img"), input = figure.querySelector("input");
  const follows = input.max === "" || Number(input.value) === Number(input.max); // unless an earlier one is looked at
  const show = () => {
    const address = steps[Number(input.value)], step = Number(address.match(/step_(\d+)/)[1]);
    if (image.getAttribute("src") !== address) image.src = address;
    image.alt = `what the teacher says of unlabeled images at step ${step}`;
    image.parentElement.href = address;
    figure.querySelector("output").textContent = written(step);
  };
  figure.hidden = !steps.length;
  if (steps.length) {
    input.max = steps.length - 1;
    input.disabled = steps.length < 2;
    if (follows) input.value = input.max;
    input.oninput = show;
    show();
  }
  const others = pictures.filter((address) => !steps.includes(address)).map((address) => {
    const name = address.match(/([^/]*)\.\w+\?/)[1].replaceAll("_", " ");
    const link = element("a", { href: address, target: "_blank" }, element("img", { src: address, alt: name }));
    return element("figure", {}, link, element("figcaption", {}, name));
  });
  get("views").replaceChildren(...others);
  get("previews").hidden = !pictures.length;
}

function show(run) {
  document.title = run.title;
  get("title").textContent = run.title;
  get("status").textContent = run.status;
  get("report").hidden = run.report === null;
  if (run.report !== null) get("report").href = run.report;
  get("faults").replaceChildren(...run.faults.map((text) => element("p", { class: "warning" }, text)));
  get("facts").replaceChildren(
    ...run.facts.map(([value, name]) => element("div", {}, element("dt", {}, value), element("dd", {}, name))),
  );
  const notes = run.health.map((one) => element("p", one.good ? {} : { class: "warning" }, `${one.sentence[0].toUpperCase()}${one.sentence.slice(1)}.`));
  get("notes").replaceChildren(...notes);
  get("health").hidden = !notes.length;
  for (const [name, charts] of Object.entries(run.charts)) {
    document.querySelector(`[data-charts=${name}]`).replaceChildren(...charts.map((one) => chart(one, run.burn_in)));
    get(name).hidden = !charts.length;
  }
  previews(run.pictures);
}

let last = null, seen = null;

async function refresh() {
  try {
    const answer = await fetch("state.json", { cache: "no-cache" });
    if (!answer.ok) throw new Error(answer.status);
    const text = await answer.text();
    seen = new Date();
    if (text !== last) show(JSON.parse(text));
    last = text;
    get("seen").className = "";
    get("seen").textContent = `As of ${seen.toLocaleTimeString()}.`;
  } catch {
    get("seen").className = "warning";
    get("seen").textContent = seen === null ? "The monitor does not answer." : `The monitor does not answer; this is as of ${seen.toLocaleTimeString()}.`;
  }
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, EVERY);
}

document.addEventListener("visibilitychange", () => document.hidden || refresh());
follow();
