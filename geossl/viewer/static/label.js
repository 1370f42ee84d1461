"use strict";

// Label mode: clicks and drags become labels; the server keeps them, fits the head and paints what it says.
let labels = null; // as the server describes them; null without label mode
let token = "";
let active = 0; // class that is drawn; -1 takes labels away
let proposed = null; // a proposed place that waits for its class
let fitting = false; // a head is being fitted
let isStale = false; // labels changed meanwhile
const painted = {}; // layers of the head, by kind
const drawn = L.layerGroup(); // outlines of the labels
const hint = L.layerGroup(); // outline of the proposed place, or of what is dragged

function tellLabel(text, isError = false) {
  byId("labelstatus").textContent = text;
  byId("labelstatus").classList.toggle("error", isError);
}

async function post(values) {
  const headers = { "Content-Type": "application/json", "X-Geossl-Token": token };
  const answer = await fetch("label", { method: "POST", headers, body: JSON.stringify(values) });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Asks for a change of the labels and shows what is left; true where it was made.
async function change(values) {
  try {
    showLabels(await post(values));
    tellLabel("");
    fit();
    return true;
  } catch (error) {
    tellLabel(error.message, true);
    return false;
  }
}

// Fits the head to the labels there are: one fit at a time, and one more if labels changed meanwhile.
async function fit() {
  isStale = true;
  if (fitting) return;
  fitting = true;
  document.body.classList.add("fitting");
  try {
    while (isStale) {
      isStale = false;
      repaint((await post({ do: "fit" })).layers);
    }
  } catch (error) {
    tellLabel(error.message, true);
  }
  fitting = false;
  document.body.classList.remove("fitting");
}

function repaint(layers) {
  for (const kind of ["label-doubt", "label-classes"]) {
    const layer = layers[kind];
    const known = painted[kind];
    if (known && layer) {
      known.tiles.setUrl(`tiles/${layer.id}/{z}/{x}/{y}.png`);
      known.item.querySelector(".legend").replaceWith(legend(layer));
    } else if (layer) {
      painted[kind] = add(layer, 0.6, kind === "label-classes");
    } else if (known) {
      known.tiles.remove();
      known.item.remove();
      delete painted[kind];
    }
  }
  document.body.dataset.fitted = String(labels.version);
}

function showLabels(found) {
  labels = found;
  active = Math.min(active, labels.classes.length - 1);
  byId("undo").disabled = !labels.undo;
  byId("rename").disabled = active < 0;
  drawn.clearLayers();
  for (const label of labels.labels) {
    const colour = labels.classes[label.class].colour;
    const style = { color: "#fff", weight: 3.5, fill: false, interactive: false };
    L.geoJSON(label.shape, { style, interactive: false }).addTo(drawn);
    L.geoJSON(label.shape, { style: { ...style, color: colour, weight: 2 }, interactive: false }).addTo(drawn);
  }
  const rows = labels.classes.map(({ name, colour, labels: count, patches }, i) => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = colour;
    const key = make("kbd", {}, i < 9 ? String(i + 1) : "");
    const amount = make("span", { className: "where" }, `${count} (${patches} patches)`);
    return choice(i, key, swatch, make("span", { className: "classname" }, name), amount);
  });
  if (rows.length) rows.push(choice(-1, make("kbd", {}, "0"), make("span", { className: "swatch" }), "no label"));
  byId("classes").replaceChildren(...rows);
  byId("how").textContent = labels.classes.length
    ? "Choose a class (keys 1 to 9), then click a patch or drag over several."
    : "Name a first class, such as water.";
}

function choice(i, ...parts) {
  const button = make("button", { type: "button" }, ...parts);
  button.setAttribute("aria-pressed", String(active === i));
  button.addEventListener("click", () => choose(i));
  return make("li", {}, button);
}

// Makes a class the active one; a proposed place gets it at once, and the next one is looked for.
async function choose(i) {
  if (i >= labels.classes.length) return;
  active = i;
  showLabels(labels);
  if (!proposed || i < 0) return;
  const at = [proposed.lon, proposed.lat];
  propose(null);
  if (await mark(at, at)) next();
}

function mark(from, to) {
  if (active >= 0 && labels.classes.length) {
    return change({ do: "add", class: labels.classes[active].name, from, to });
  }
  if (!labels.classes.length) {
    tellLabel("Name a class first.", true);
    byId("classname").focus();
    return false;
  }
  return change({ do: "erase", from, to });
}

function propose(found) {
  proposed = found;
  hint.clearLayers();
  if (!found) return;
  L.polygon(found.patch, { color: "#fff", weight: 6, fill: false, interactive: false }).addTo(hint);
  L.polygon(found.patch, { color: "#111", weight: 3, dashArray: "5 4", fill: false, interactive: false }).addTo(hint);
}

async function next() {
  try {
    const found = await post({ do: "next" });
    propose(found);
    map.setView([found.lat, found.lon], Math.max(map.getZoom(), 14), { animate: false });
    const why = found.uncertainty === null ? "" : `, uncertainty ${found.uncertainty.toFixed(2)}`;
    tellLabel(`What is in the dashed square${why}? A key of a class labels it; N shows another, Escape none.`);
  } catch (error) {
    propose(null);
    tellLabel(error.message, true);
  }
}

async function more() {
  byId("curve").replaceChildren();
  tellLabel("Fitting heads to parts of the labels ...");
  try {
    const found = await post({ do: "curve" });
    tellLabel(found.said);
    if (found.points) byId("curve").append(plot(found));
  } catch (error) {
    tellLabel(error.message, true);
  }
}

function svg(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

// Balanced accuracy over the number of labels, with its interval, and where it is thought to go.
function plot({ points, gain, more: count, now }) {
  const [width, height, left, bottom] = [280, 120, 34, 22];
  const last = points[points.length - 1];
  const end = now + count;
  const low = Math.floor(Math.min(...points.map((p) => p[2])) / 10) * 10;
  const high = Math.min(100, Math.ceil(Math.max(last[1] + gain, ...points.map((p) => p[3])) / 10) * 10);
  const x = (n) => left + ((width - left - 8) * n) / end;
  const y = (s) => 6 + ((height - bottom - 6) * (high - s)) / Math.max(1, high - low);
  const label = `Balanced accuracy ${points[0][1]} % with ${points[0][0]} labels, ${last[1]} % with ${last[0]}`;
  const figure = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  figure.append(svg("path", { class: "axis", d: `M${left} 6V${height - bottom}H${width - 8}` }));
  for (const s of [low, high]) figure.append(svg("text", { x: left - 4, y: y(s) + 4, class: "end" }, `${s} %`));
  for (const n of [Math.round(points[0][0]), now, end]) {
    figure.append(svg("text", { x: x(n), y: height - 6, class: "middle" }, String(n)));
  }
  figure.append(svg("path", { class: "soft", d: `M${x(last[0])} ${y(last[1])}L${x(end)} ${y(last[1] + gain)}` }));
  figure.append(svg("path", { class: "line", d: `M${points.map((p) => `${x(p[0])} ${y(p[1])}`).join("L")}` }));
  for (const [n, score, below, above] of points) {
    figure.append(svg("path", { class: "line", d: `M${x(n)} ${y(below)}V${y(above)}` }));
    figure.append(svg("circle", { cx: x(n), cy: y(score), r: 3 }));
  }
  return figure;
}

// One finger or the left button draws, two fingers and the wheel move and zoom.
function startDrawing() {
  const container = map.getContainer();
  let start = null;
  const at = (event) => map.mouseEventToLatLng(event);
  const stop = () => {
    start = null;
    if (!proposed) hint.clearLayers();
  };
  container.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button || event.target.closest(".leaflet-control, .leaflet-popup")) return stop();
    start = isDrawing() ? { x: event.clientX, y: event.clientY, at: at(event) } : null;
    return undefined;
  });
  container.addEventListener("pointermove", (event) => {
    if (!start || !event.isPrimary || near(event)) return;
    propose(null);
    L.rectangle([start.at, at(event)], { color: "#111", weight: 2, dashArray: "5 4", interactive: false }).addTo(hint);
  });
  const near = (event) => Math.hypot(event.clientX - start.x, event.clientY - start.y) < 6;
  window.addEventListener("pointerup", (event) => {
    if (!start || !event.isPrimary) return;
    const first = start.at;
    const second = near(event) ? first : at(event);
    propose(null);
    stop();
    mark([first.lng, first.lat], [second.lng, second.lat]);
  });
  window.addEventListener("pointercancel", stop);
}

function isDrawing() {
  return byId("draw").getAttribute("aria-pressed") === "true";
}

function switchTool() {
  const draws = !isDrawing();
  byId("draw").setAttribute("aria-pressed", String(draws));
  map.getContainer().classList.toggle("drawing", draws);
  if (draws) map.dragging.disable();
  else map.dragging.enable();
}

function startLabelling(found, given) {
  token = given;
  byId("labelling").hidden = false;
  document.body.classList.add("labels");
  byId("searching").open = false;
  byId("hint").textContent = "Type a point to find what looks like that patch.";
  document.title = document.title.replace("view", "label");
  drawn.addTo(map);
  hint.addTo(map);
  showLabels(found);
  byId("facts").append(make("br"), `labels: ${found.file}`);
  byId("naming").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = byId("classname").value;
    if (!(await change({ do: "name", name }))) return;
    byId("classname").value = "";
    active = labels.classes.length - 1;
    showLabels(labels);
  });
  byId("rename").addEventListener("click", async () => {
    const name = byId("classname").value;
    if (await change({ do: "rename", class: labels.classes[active].name, name })) byId("classname").value = "";
  });
  byId("draw").addEventListener("click", switchTool);
  byId("undo").addEventListener("click", () => change({ do: "undo" }));
  byId("next").addEventListener("click", next);
  byId("more").addEventListener("click", more);
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input:not([type=checkbox], [type=range])");
    if (isTyping || event.altKey || (event.ctrlKey || event.metaKey ? event.key !== "z" : event.key === "z")) return;
    const keys = { u: () => change({ do: "undo" }), z: () => change({ do: "undo" }), n: next, m: switchTool };
    keys.Escape = () => propose(null);
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (/^\d$/.test(key)) choose(Number(key) - 1);
    else if (keys[key]) keys[key]();
    else return;
    event.preventDefault();
  });
  byId("draw").setAttribute("aria-pressed", "false");
  switchTool();
  startDrawing();
  if (found.labels.length) fit();
}
