"use strict";

const byId = (id) => document.getElementById(id);
const map = L.map("map", { maxZoom: 19, minZoom: 2, boxZoom: false });
map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
L.control.scale({ imperial: false }).addTo(map);

const found = L.layerGroup().addTo(map); // outline of the example and numbered places
let shown = null; // the similarity layer
let asking = null; // AbortController of the running search

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function degrees(lat, lon) {
  return `${lon.toFixed(5)}, ${lat.toFixed(5)}`;
}

function legend(layer) {
  if (layer.kind === "classes") {
    const items = layer.classes.map(({ name, colour }) => {
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = colour;
      return make("li", {}, swatch, name);
    });
    return make("ul", { className: "legend" }, ...items);
  }
  if (layer.kind === "values") {
    const bar = make("div", { className: "bar", role: "img" });
    bar.style.background = `linear-gradient(to right, ${layer.stops.join(", ")})`;
    const ends = [layer.low, layer.high].map((value) => value.toPrecision(3));
    bar.setAttribute("aria-label", `Colour bar from ${ends[0]} to ${ends[1]}`);
    const labels = ends.map((text) => make("span", {}, text));
    const parts = [bar, make("div", { className: "ends" }, ...labels)];
    if (layer.note) parts.push(make("p", { className: "note" }, layer.note));
    return make("div", { className: "legend" }, ...parts);
  }
  return "";
}

// Adds a layer on top of those there are, with its switch, opacity and legend.
function add(layer, opacity, isShown = true) {
  const pane = layer.side === "right" ? swiped() : "tilePane";
  const tiles = L.tileLayer(`tiles/${layer.id}/{z}/{x}/{y}.png`, { bounds: layer.bounds, opacity, maxZoom: 19, pane });
  if (isShown) tiles.addTo(map);
  const box = make("input", { type: "checkbox", checked: isShown, id: `show-${layer.id}` });
  box.addEventListener("change", () => (box.checked ? tiles.addTo(map) : tiles.remove()));
  const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: opacity });
  slider.setAttribute("aria-label", `Opacity of ${layer.name}`);
  slider.addEventListener("input", () => tiles.setOpacity(Number(slider.value)));
  const row = make("div", { className: "row" }, box, make("label", { htmlFor: box.id }, layer.name), slider);
  const item = make("li", {}, row, legend(layer));
  byId("layers").prepend(item);
  return { tiles, item, slider, box };
}

// Shows tiles of others below all else, with their source.
function underlay({ url, credit }) {
  const tiles = L.tileLayer(url, { attribution: credit, maxZoom: 19, referrerPolicy: "strict-origin", zIndex: 0 });
  tiles.addTo(map);
  const box = make("input", { type: "checkbox", checked: true, id: "show-base" });
  box.addEventListener("change", () => (box.checked ? tiles.addTo(map) : tiles.remove()));
  byId("layers").append(make("li", {}, make("div", { className: "row" }, box, make("label", { htmlFor: box.id }, "base map, online"))));
}

// Makes the pane of the map that is swiped over the others; the slider cuts off its left part.
function swiped() {
  const pane = map.createPane("right");
  const slider = byId("swipe");
  pane.style.zIndex = 250; // above the tiles, below outlines and markers
  const cut = () => {
    const size = map.getSize();
    const from = map.containerPointToLayerPoint([size.x * Number(slider.value), 0]);
    const to = map.containerPointToLayerPoint(size);
    pane.style.clip = `rect(${from.y}px, ${to.x}px, ${to.y}px, ${from.x}px)`;
  };
  slider.hidden = false;
  slider.addEventListener("input", cut);
  map.on("move zoomend resize viewreset", cut);
  map.whenReady(cut);
  return "right";
}

// Outlines the region the map was made for, below whatever is found, with its switch.
function outline(area) {
  const line = { color: "#111", weight: 2, dashArray: "6 4", fill: false, interactive: false };
  const halo = { ...line, color: "#fff", weight: 4, dashArray: null };
  const shape = L.layerGroup([halo, line].map((style) => L.geoJSON(area, { style, interactive: false }))).addTo(map);
  const box = make("input", { type: "checkbox", checked: true, id: "show-region" });
  box.addEventListener("change", () => (box.checked ? shape.addTo(map) : shape.remove()));
  const swatch = make("span", { className: "outline", ariaHidden: "true" });
  const row = make("div", { className: "row" }, box, make("label", { htmlFor: box.id }, "region"), swatch);
  byId("layers").append(make("li", { id: "region" }, row));
}

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

async function ask(url, signal) {
  const answer = await fetch(url, { signal });
  const values = await answer.json();
  if (!answer.ok) throw new Error(values.error);
  return values;
}

async function search(lat, lon) {
  asking?.abort();
  const mine = (asking = new AbortController());
  say("Comparing with the whole map ...");
  try {
    const result = await ask(`similar.json?lon=${lon.toFixed(7)}&lat=${lat.toFixed(7)}&top=10`, mine.signal);
    show(result);
    say(`Most similar to ${degrees(lat, lon)}:`);
    if (matchMedia("(max-width: 640px)").matches) byId("status").scrollIntoView();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

function show({ layer, places, patch }) {
  const opacity = shown ? Number(shown.slider.value) : 1; // opaque, so that colours match the bar
  if (shown) {
    shown.tiles.remove();
    shown.item.remove();
  }
  shown = add(layer, opacity);
  found.clearLayers();
  L.polygon(patch, { color: "#fff", weight: 5, fill: false, interactive: false }).addTo(found);
  L.polygon(patch, { color: "#b3261e", weight: 2.5, fill: false, interactive: false }).addTo(found);
  byId("places").replaceChildren(...places.features.map(place));
}

function place({ properties: { rank, score }, geometry }) {
  const [lon, lat] = geometry.coordinates;
  const text = `Place ${rank}, similarity ${score.toFixed(3)}`;
  const icon = L.divIcon({ className: "", html: `<span class="rank">${rank}</span>`, iconSize: [26, 26] });
  const marker = L.marker([lat, lon], { icon, title: text, alt: text }).addTo(found);
  marker.bindPopup(`${text}<br>${degrees(lat, lon)}`);
  const number = make("span", { className: "rank" }, String(rank));
  const where = make("span", { className: "where" }, degrees(lat, lon));
  const button = make("button", { type: "button" }, number, score.toFixed(3), where);
  button.setAttribute("aria-label", `${text}, at ${degrees(lat, lon)}; show on the map`);
  button.addEventListener("click", () => {
    map.panTo([lat, lon]);
    marker.openPopup();
  });
  return make("li", {}, button);
}

function tell({ lat, lng }) {
  byId("position").textContent = `lon, lat  ${degrees(lat, lng)}`;
}

map.on("mousemove", (event) => tell(event.latlng));
map.on("moveend", () => tell(map.getCenter()));
map.on("click", (event) => {
  if (!labels) search(event.latlng.lat, event.latlng.lng);
});
// The cross marks the centre for those who search with the keyboard.
document.addEventListener("keydown", () => document.body.classList.add("keys"));
document.addEventListener("pointerdown", () => document.body.classList.remove("keys"));
map.getContainer().addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target !== map.getContainer()) return;
  const { lat, lng } = map.getCenter();
  if (labels) mark([lng, lat], [lng, lat]);
  else search(lat, lng);
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("point").value.trim();
  if (!text) return search(map.getCenter().lat, map.getCenter().lng);
  const numbers = text.split(/[\s,]+/).map(Number);
  if (numbers.length !== 2 || !numbers.every(Number.isFinite)) return say("Write a point as lon, lat.", true);
  return search(numbers[1], numbers[0]);
});

ask("map.json").then((values) => {
  const [rows, columns] = values.shape;
  document.title = `${values.name} - geossl view`;
  byId("name").textContent = values.name;
  byId("facts").textContent =
    `${columns} x ${rows} patches of ${values.patch_m} m, ${values.dimensions} dimensions, ${values.crs}`;
  map.fitBounds(values.bounds);
  map.setMaxBounds(L.latLngBounds(values.bounds).pad(2));
  const hasScene = values.layers[0].name === "true colour"; // which one labels on
  values.layers.forEach((layer) => add(layer, 1, !(values.label && hasScene && layer.name === "false colour")));
  if (values.area) outline(values.area);
  if (values.base) underlay(values.base);
  if (values.label) startLabelling(values.label, values.token);
}).catch((error) => say(error.message, true));
